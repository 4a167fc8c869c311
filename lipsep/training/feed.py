"""Examples for the loop: whose turn they are among processes, and where an interrupted epoch goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import lightning
from torch.utils.data import DataLoader, Dataset, Sampler

from lipsep.errors import ModelError


class Share(Sampler):
    """Of n examples every `world`-th, from the process's rank on: what n // batch steps of one process would see is
    what as many steps of all processes together see."""

    def __init__(self, n: int, rank: int, world: int) -> None:
        self.n, self.rank, self.world = n, rank, world
        self.seen = 0  # examples of this share that an interrupted run has seen: the next pass begins after them

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank + self.seen * self.world, self.n, self.world))

    def __len__(self) -> int:
        return len(range(self.rank, self.n, self.world))


class ResumableLoader(DataLoader):
    """Counts the batches that it gave, so that a checkpoint in mid-epoch goes on with the next one."""

    given = 0

    def __iter__(self) -> Iterator[Any]:
        self.sampler.seen = self.given * self.batch_size
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


class Feed(lightning.LightningDataModule):
    """Fresh examples for every epoch, the same ones for every validation. Both data sets have an `epoch` to set."""

    def __init__(self, training: Dataset, validation: Dataset, batch: int, workers: int, collate: Callable):
        """batch: examples per step of all processes together."""
        super().__init__()
        self.training, self.validation, self.batch = training, validation, batch
        self.options = {"num_workers": workers, "collate_fn": collate, "worker_init_fn": _leave_sigterm_to_the_loop}

    def train_dataloader(self) -> DataLoader:
        self.training.epoch = self.trainer.current_epoch  # Lightning asks anew at every epoch, see `make_trainer`
        return self._loader(self.training, ResumableLoader)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.validation, DataLoader)

    def _loader(self, data: Dataset, kind: type[DataLoader]) -> DataLoader:
        world = self.trainer.world_size
        if self.batch % world:
            raise ModelError(
                f"recipe: a batch of {self.batch} cannot be shared by {world} processes: make it a multiple"
            )
        share = Share(len(data), self.trainer.global_rank, world)
        return kind(data, batch_size=self.batch // world, sampler=share, **self.options)


def _leave_sigterm_to_the_loop(_: int) -> None:
    """Schedulers ask all processes to end at once; without its workers the loop could not finish the step and save."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
