"""What happens around the loop's steps."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException


class EpochBar(RichProgressBar):
    """Counts epochs from 1 to the last; Lightning's own bar begins with 0."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1} of {self.trainer.max_epochs}"


class SaveOnSigterm(lightning.Callback):
    """Asked to end (SIGTERM), finish the step, write the last checkpoint and leave; a later run goes on from there.

    With several processes, one that is asked is enough. Between gradient accumulations nothing is written, nor after an
    epoch's last step, where the epoch's own checkpoint follows: it ends one step later then.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.asked = False

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        signal.signal(signal.SIGTERM, self._ask)  # Lightning puts back what was there when it leaves

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        asked = self.asked
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked and (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch:
            trainer.save_checkpoint(self.checkpoint)
            raise SIGTERMException

    def _ask(self, *_: Any) -> None:
        self.asked = True
