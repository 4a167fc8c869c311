"""The separator's training step and validation, as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lipsep.losses import LOSSES, si_snr
from lipsep.models.base import SeparationModel
from lipsep.training.recipe import TrainingPart


class SeparationTraining(lightning.LightningModule):
    """Adam, gradient norm clipped, warm-up then half a cosine; SI-SNRi and the two-cue test on fixed mixtures."""

    def __init__(self, model: SeparationModel, settings: TrainingPart):
        super().__init__()
        self.model, self.settings = model, settings
        self.loss = LOSSES[settings.loss]
        if settings.frozen_video:
            for part in model.video_parts():
                part.requires_grad_(False)

    def on_train_batch_start(self, *_: Any) -> None:
        """Dropout and code sampling depend on the step alone, so that a resumed run equals an uninterrupted one."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step)
        if self.settings.frozen_video:
            for part in self.model.video_parts():
                part.eval()

    def separate(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Estimates (2B, 1, T) of mixtures (2B, T) that are asked twice in a row, with both mouths (2B, F, S, S);
        models that take all faces at once are asked once."""
        if not self.model.faces_at_once:
            return self.model(mixture, lips).float()
        estimates = self.model(mixture[::2], lips.unflatten(0, (-1, 2)))  # (B, 2, T)
        return estimates.float().flatten(0, 1).unsqueeze(1)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        mixture, lips, sources = batch  # (2B, T), (2B, F, S, S), (2B, 1, T)
        loss = self.loss(self.separate(mixture, lips), sources)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> None:
        mixture, lips, sources = batch
        estimates = self.separate(mixture, lips)
        improvement = si_snr(estimates, sources) - si_snr(mixture[:, None], sources)  # (2B, 1)
        asked, other = (
            si_snr(estimates, sources),
            si_snr(estimates, sources.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)),
        )
        own = (asked > other).view(-1, 2).all(-1).float()  # both lips fetched their own voice
        self.log("val_si_snri", improvement.mean(), prog_bar=True, batch_size=len(mixture))
        self.log("val_two_cue", own.mean(), prog_bar=True, batch_size=len(mixture))

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.settings
        optimiser = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        total_steps = settings.epochs * settings.steps_per_epoch

        def factor(step: int) -> float:
            if step < settings.warmup_steps:
                return (step + 1) / settings.warmup_steps
            done = (step - settings.warmup_steps) / max(1, total_steps - settings.warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Feed(lightning.LightningDataModule):
    """Fresh examples for every epoch, the same ones for every validation. Both data sets have an `epoch` to set."""

    def __init__(self, training: Dataset, validation: Dataset, batch: int, workers: int, collate: Callable):
        super().__init__()
        self.training, self.validation = training, validation
        self.options = {"batch_size": batch, "num_workers": workers, "collate_fn": collate}

    def train_dataloader(self) -> DataLoader:
        self.training.epoch = self.trainer.current_epoch  # Lightning asks anew at every epoch, see `make_trainer`
        return DataLoader(self.training, **self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation, **self.options)
