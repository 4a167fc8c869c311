"""A blind separator learns to take voices apart by their sound, before lips choose among them.

The loss is the voices' negative SNR in their best order. Beside it stands deep clustering, by a linear layer that is
thrown away: bands and frames belong together where the same voice is the loudest. Without it, training stays for long
where every estimate is half of the mixture (docs/training.md has the curves).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from lipsep.checkpoints.beginnings import take_all
from lipsep.data.clips.clips import TalkingClips, join
from lipsep.data.corpora.opening import prepare_clips, prepare_held_out
from lipsep.data.mixing.blind import BlindConfig, BlindMixtures
from lipsep.data.mixing.rooms import draw_rooms
from lipsep.errors import ModelError
from lipsep.lips.recipes import lip_recipe
from lipsep.losses import clustering, permutation_free, si_snr, stft_distance
from lipsep.models.voices_first import VoiceSeparator, VoicesFirst
from lipsep.training.feed import Feed
from lipsep.training.pretraining.start import Pretraining
from lipsep.training.recipe import VoicesPart
from lipsep.training.run import fit, make_trainer

REST_WEIGHT = 0.3  # of what is no voice, beside a voice's 1
CLUSTER_DIM = 20
AUDIBLE = 0.01  # of the loudest band and frame: what is softer clusters with nothing


class BlindSeparation(lightning.LightningModule):
    """Losses above; validation by the SI-SNRi of two voices, each fetched by the estimate that is best for it."""

    def __init__(self, separator: VoiceSeparator, settings: VoicesPart):
        super().__init__()
        self.separator, self.settings = separator, settings
        self.to_cluster = nn.Linear(separator.config.channels, CLUSTER_DIM, bias=False)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        mixture, parts = batch  # (B, T), (B, V + 1, T)
        spectrum, level = self.separator.analyse(mixture)
        hidden = self.separator.hidden(spectrum)  # (T', B, K, C)
        estimates = self.separator.waveforms(self.separator.masks(hidden), spectrum, level, mixture.shape[1]).float()
        sources = parts[:, :-1]
        voices, order = permutation_free(estimates[:, :-1], sources, mixture)
        whole = mixture.square().sum(-1)
        missed = (estimates[:, -1] - parts[:, -1]).square().sum(-1)
        rest = 10 * torch.log10((missed + 0.01 * whole) / whole.clamp(min=1e-8))
        present = sources.any(-1)  # (B, V)
        loss = ((voices + REST_WEIGHT * rest) / present.sum(1).clamp(min=1)).mean()
        if self.settings.stft_weight:
            mine = estimates[torch.arange(len(order))[:, None], order][present]
            loss = loss + self.settings.stft_weight * stft_distance(mine, sources[present])
        if self.settings.clustering_weight:
            loss = loss + self.settings.clustering_weight * self._clustering(hidden, parts)
        self.log("loss", loss, prog_bar=True)
        return loss

    def _clustering(self, hidden: Tensor, parts: Tensor) -> Tensor:
        """hidden (T', B, K, C), parts (B, V + 1, T) -> ()"""
        embeddings = F.normalize(self.to_cluster(self.separator.masks.norm(hidden)).float(), dim=-1)  # (T', B, K, D)
        with torch.no_grad():
            power = torch.stack([self.separator.band_powers(part) for part in parts.unbind(1)], 1)  # (B, V + 1, T', K)
            weights = power.sum(1).sqrt()  # (B, T', K)
            audible = weights > AUDIBLE * weights.amax((1, 2), keepdim=True)
            weights = weights.sqrt() * (audible & (power[:, :-1].amax(1) > power[:, -1]))
            members = F.one_hot(power[:, :-1].argmax(1), power.shape[1] - 1).float()  # (B, T', K, V)
        return clustering(embeddings.transpose(0, 1).flatten(1, 2), members.flatten(1, 2), weights.flatten(1))

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        mixture, parts = batch
        voices = parts[:, :2]
        estimates = self.separator(mixture)[:, :-1].float()
        closeness = si_snr(estimates[:, :, None], voices[:, None])  # (B, estimate, voice)
        pairs = permutations(range(estimates.shape[1]), 2)
        best = torch.stack([closeness[:, a, 0] + closeness[:, b, 1] for a, b in pairs], 1).amax(1) / 2  # (B,)
        improvement = best - si_snr(mixture[:, None], voices).mean(1)
        self.log("val_si_snri", improvement.mean(), prog_bar=True, batch_size=len(mixture), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.settings
        optimiser = torch.optim.AdamW(self.parameters(), settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        total_steps = settings.epochs * settings.steps_per_epoch

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / settings.warmup_steps)
            return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total_steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def pretrain_voices(path: Path, overrides: Sequence[str], resume: bool) -> Path:
    """Run a recipe's `voices` part; return the folder of the model whose blind separator has learned. The follower is
    that of the part's `initial_weights`, or untaught.

    Raises:
        ModelError: the model has no blind separator or other sizes than its initial weights, or the recipe too few
            talkers to train or to validate on.
    """
    run = Pretraining.open(path, "voices", overrides)
    settings, data = run.settings, run.recipe.data
    if not isinstance(run.model, VoicesFirst):
        raise ModelError(f"recipe {path}: voices teaches a voices_first model, and '{run.recipe.model.name}' is none")
    if data.unfilmed and not data.unfilmed_held_out:
        raise ModelError(f"recipe {path}: voices validates on data.unfilmed_held_out, which names nobody")
    known = {field.name for field in dataclasses.fields(BlindConfig)}
    if unknown := set(settings.mixing) - known:
        raise ModelError(
            f"recipe: voices.mixing has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}"
        )
    if settings.initial_weights:
        take_all(run.model, settings.initial_weights)
    config = BlindConfig(**settings.mixing)
    pictures = lip_recipe(run.model.lip_recipe)
    filmed, validation, unfilmed, noises = prepare_clips(data, pictures)
    if not isinstance(filmed, TalkingClips) or not isinstance(validation, TalkingClips):
        raise ModelError(f"recipe {path}: voices mixes anew, from data.filmed; data.finished are mixtures")
    rooms = draw_rooms(settings.rooms, 3, settings.seed) if settings.rooms else None
    n_items = settings.steps_per_epoch * settings.accumulate * settings.batch
    voices = filmed if unfilmed is None else join([unfilmed, filmed])
    learn = BlindMixtures(voices, noises, rooms, config, n_items, settings.seed, settings.harder_until_epoch)
    plain = dataclasses.replace(config, third=0, single=0, paced=0, pauses=0, alike=0.5)
    strangers = validation if unfilmed is None else prepare_held_out(data, filmed)
    check = BlindMixtures(strangers, None, None, plain, settings.validation_mixtures, settings.seed + 1)
    feed = Feed(learn, check, settings.batch, settings.workers, default_collate)
    trainer = make_trainer(settings.output, settings, [EMAWeightAveraging(decay=settings.ema_decay)])
    fit(trainer, BlindSeparation(run.model.separator, settings), feed, resume)
    run.export(trainer, "blind separator alone", {"val_si_snri": float(trainer.callback_metrics["val_si_snri"])})
    return run.folder
