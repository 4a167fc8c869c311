"""The separator's training step and validation, as a Lightning module."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from lipsep.losses import LOSSES, magnitude_si_snr, si_snr, silence, stft_distance
from lipsep.models.base import SeparationModel
from lipsep.training.auxiliary import AuxiliaryBranch, auxiliary_weight
from lipsep.training.co_separation import CoSeparation
from lipsep.training.recipe import TrainingPart

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class SeparationTraining(lightning.LightningModule):
    """The losses, optimiser and schedule that the recipe asks for; SI-SNRi and the two-cue test on fixed mixtures."""

    def __init__(self, model: SeparationModel, settings: TrainingPart):
        super().__init__()
        self.model, self.settings = model, settings
        self.co_separation = CoSeparation(model) if settings.loss == "co_separation" else None
        self.loss = LOSSES.get(settings.loss)
        self.auxiliary = AuxiliaryBranch(model) if settings.auxiliary_weight else None
        self.frozen: tuple[nn.Module, ...] = ()
        if settings.frozen_video:
            self.frozen = (model.video_encoder,) if settings.frozen_video == "encoder" else model.video_parts()
        for part in self.frozen:
            part.requires_grad_(False)

    def on_train_batch_start(self, *_: Any) -> None:
        """Dropout and code sampling depend on the step alone, so that a resumed run equals an uninterrupted one."""
        place = self.trainer.fit_loop.batch_idx % self.settings.accumulate + self.settings.accumulate * self.global_rank
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step + 499_979 * place)
        for part in self.frozen:
            part.eval()

    def separate(self, mixture: Tensor, *shown: Tensor) -> Tensor:
        """Estimates (2B, 1, T) of mixtures (2B, T) that are asked twice in a row, with both mouths (2B, F, S, S) and
        what else is shown of people; models that take all faces at once are asked once."""
        if not self.model.faces_at_once:
            return self.model(mixture, *shown).float()
        estimates = self.model(mixture[::2], *(each.unflatten(0, (-1, 2)) for each in shown))  # (B, 2, T)
        return estimates.float().flatten(0, 1).unsqueeze(1)

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        mixture, lips, sources, *faces = batch  # (2B, T), (2B, F, S, S), (2B, 1, T); (2B, 3, P, P) if needed
        if self.co_separation is not None:
            loss = self.co_separation(self.model, mixture, lips, sources, *faces)
        else:
            loss = self._loss(self.separate(mixture, lips, *faces), mixture, sources)
        self.log("loss", loss, prog_bar=True)
        if self.settings.plateau_watches == "loss_of_epoch":
            self.log("loss_of_epoch", loss, on_step=False, on_epoch=True, batch_size=len(mixture))
        return loss

    def _loss(self, estimates: Tensor, mixture: Tensor, sources: Tensor) -> Tensor:
        """The recipe's loss; where a mouth's voice is not in the mixture, the estimate should be silent."""
        settings = self.settings
        present = sources.flatten(1).any(-1)  # (2B,)
        if not present.any():
            return silence(estimates, mixture[:, None]).mean()
        heard, voices = estimates[present], sources[present]
        loss = self.loss(heard, voices)
        if settings.stft_weight:
            loss = loss + settings.stft_weight * stft_distance(heard, voices)
        if self.auxiliary is not None:  # Dolphin, Eq. 23-28
            weight = auxiliary_weight(self.current_epoch, settings.auxiliary_weight)
            early = self.auxiliary()[present].float()  # (P, 1, T')
            loss = (1 - weight) * loss - weight * magnitude_si_snr(early, voices[..., : early.shape[-1]]).mean()
        if present.all():
            return loss
        share = present.float().mean()
        return share * loss + (1 - share) * silence(estimates[~present], mixture[~present, None]).mean()

    def validation_step(self, batch: tuple[Tensor, ...], _: int) -> None:
        improvement, own = self.judge(batch)
        n_mixtures = len(batch[0])
        self.log("val_si_snri", improvement.mean(), prog_bar=True, batch_size=n_mixtures, sync_dist=True)
        self.log("val_two_cue", own.mean(), prog_bar=True, batch_size=n_mixtures, sync_dist=True)

    def judge(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """SI-SNRi of each voice asked for, dB, (2B, 1); whether both lips fetch their own voice, 0 or 1, (B,)."""
        mixture, lips, sources, *faces = batch
        estimates = self.separate(mixture, lips, *faces)
        improvement = si_snr(estimates, sources) - si_snr(mixture[:, None], sources)  # (2B, 1)
        asked, other = (
            si_snr(estimates, sources),
            si_snr(estimates, sources.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)),
        )
        return improvement, (asked > other).view(-1, 2).all(-1).float()

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.settings
        optimiser = OPTIMISERS[settings.optimiser](
            self._parameter_groups(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay
        )
        if settings.schedule == "plateau":
            mode = "min" if settings.plateau_watches == "loss_of_epoch" else "max"
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimiser, mode, 0.5, patience=settings.halve_after_epochs - 1, threshold=0.0, threshold_mode="abs"
            )
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": plateau, "monitor": settings.plateau_watches}}
        total_steps = settings.epochs * settings.steps_per_epoch

        def factor(step: int) -> float:
            if settings.schedule == "steps":
                return 0.1 ** sum(step >= drop for drop in settings.drop_at_steps)
            if step < settings.warmup_steps:
                return (step + 1) / settings.warmup_steps
            done = (step - settings.warmup_steps) / max(1, total_steps - settings.warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """All parameters, those that know faces and voices at a rate of their own where the recipe has one."""
        if self.settings.identity_learning_rate is None:
            return [{"params": list(self.parameters())}]
        identity = self.co_separation.identity_parameters(self.model)
        known = set(map(id, identity))
        others = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return [{"params": others}, {"params": identity, "lr": self.settings.identity_learning_rate}]
