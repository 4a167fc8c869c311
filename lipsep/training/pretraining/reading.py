"""Teach a model's lips to hear before it separates: from the lip pictures alone, predict the sound that they make.

What the video branch of a separator must find out, which mouth belongs to which sound, it learns slowly through the
separator. A linear layer on that branch that predicts the log-mel spectrum of the clean voice teaches the same in a
fraction of the time, and needs no teacher network: the target is computed from the sound. Another teacher may be named
(`lipsep.training.pretraining.teachers`). The layer is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from lipsep.constants import FPS
from lipsep.data.clips.clips import TalkingClips
from lipsep.data.clips.pace import draw_stretch, frames_at
from lipsep.data.corpora.opening import Clips, prepare_clips
from lipsep.data.mixing.lip_view import LipView
from lipsep.data.mixing.mixing import MixingConfig
from lipsep.errors import ModelError
from lipsep.lips.recipes import LipRecipe, lip_recipe
from lipsep.models import SeparationModel
from lipsep.training.corpora import mixing_config, plain
from lipsep.training.feed import Feed
from lipsep.training.pretraining.start import Pretraining
from lipsep.training.pretraining.teachers import (
    StoredTargets,
    StoredTeacher,
    Teacher,
    create_teacher,
    store_targets,
    taught_by,
    teaching_card,
)
from lipsep.training.recipe import LipCoderPart, LipReadingPart, Recipe
from lipsep.training.run import fit, make_trainer

UNFILMED = 1 / 3  # share of examples whose mouth was made from the sound


class WatchedVoices(Dataset):
    """Endless examples, lip pictures (F, S, S) and what the teacher needs: the voice (640 F,), or its
    own targets (F, D) where they are stored. They depend on the seed, the epoch and the index only."""

    def __init__(
        self,
        filmed: Clips,
        unfilmed: TalkingClips | None,
        config: MixingConfig,
        recipe: LipRecipe,
        n_items: int,
        seed: int,
        epoch: int = 0,
        targets: tuple[StoredTargets | None, StoredTargets | None] = (None, None),
    ):
        """targets: of the filmed and of the unfilmed clips."""
        self.filmed, self.unfilmed, self.config = filmed, unfilmed, config
        self.n_items, self.seed, self.epoch = n_items, seed, epoch
        self.targets = targets
        self.n_frames = round(config.segment_s * FPS)
        self.view = LipView(filmed, unfilmed, config.mouths, config.random_crop, recipe, config.contrast)

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.n_items:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        made = self.unfilmed is not None and rng.random() < UNFILMED
        corpus, targets = (self.unfilmed if made else self.filmed), self.targets[made]
        pace = rng.uniform(*self.config.pace)
        number = int(rng.integers(len(corpus)))
        clip = corpus[number]
        voice, position = draw_stretch(clip, pace, self.n_frames, rng)
        pictures = self.view(clip, position, rng)
        heard = voice if targets is None else frames_at(targets[number], position)
        return torch.from_numpy(pictures), torch.from_numpy(heard.astype(np.float32))


class LipReading(lightning.LightningModule):
    """Least squares between the teacher's targets and a linear layer on what the model sees (`watch`)."""

    def __init__(self, model: SeparationModel, teacher: Teacher, settings: LipReadingPart):
        super().__init__()
        self.model, self.settings = model, settings
        self.teachers = (teacher,)  # a tuple, so that checkpoints do not hold its weights
        self.to_target = nn.Linear(model.config.visual_channels, teacher.dim)

    def on_train_batch_start(self, *_: Any) -> None:
        """Dropout depends on the step alone, so that a resumed run equals an uninterrupted one."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        loss = self._error(*batch)[0]
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        error, power = self._error(*batch)
        self.log("val_explained", 1 - error / power, prog_bar=True, batch_size=len(batch[0]), sync_dist=True)

    def _error(self, lips: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Mean square of what is missed, and of the targets."""
        target = ask(self.teachers[0], lips, heard)
        return (self.to_target(self.model.watch(lips)) - target).square().mean(), target.square().mean()

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.settings
        optimiser = torch.optim.Adam(self.parameters(), lr=settings.learning_rate)
        n_steps = max(11, settings.epochs * settings.steps_per_epoch)  # of 10, the first of its parts would have none
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, n_steps, pct_start=0.1)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def ask(teacher: Teacher, lips: Tensor, heard: Tensor) -> Tensor:
    """The teacher's targets, (B, F, dim), on the pupil's device and without gradients."""
    with torch.no_grad():
        return teacher.to(lips.device)(lips, heard).float()


def watched_feed(recipe: Recipe, settings: LipReadingPart | LipCoderPart, lips: LipRecipe) -> tuple[Feed, Teacher]:
    """Examples of the recipe's corpora, and who teaches on them; stores the targets first where the recipe asks."""
    training, validation, unfilmed, _ = prepare_clips(recipe.data, lips)
    teacher = create_teacher(settings.teacher, lips)
    mixing = mixing_config(recipe.data)
    stored = {name: None for name in ("training", "validation", "unfilmed")}
    if settings.teacher.targets is not None:
        corpora = {"training": training, "validation": validation, "unfilmed": unfilmed}
        stored |= _store(teacher, settings.teacher.targets, corpora)
        teacher = StoredTeacher(teacher)
    n_items = settings.steps_per_epoch * settings.accumulate * settings.batch
    taught = (stored["training"], stored["unfilmed"])
    learn = WatchedVoices(training, unfilmed, mixing, lips, n_items, settings.seed, targets=taught)
    n_items, taught = settings.validation_examples, (stored["validation"], None)
    check = WatchedVoices(validation, None, plain(mixing), lips, n_items, settings.seed + 1, targets=taught)
    return Feed(learn, check, settings.batch, settings.workers, default_collate), teacher


def _store(teacher: Teacher, folder: Path, corpora: dict[str, Clips | None]) -> dict[str, StoredTargets]:
    teacher.to("cuda" if torch.cuda.is_available() else "cpu")
    with Console(stderr=True).status("asking the teacher") as status:

        def hook(step: str, completed: int, total: int | None) -> None:
            status.update(f"asking the teacher: {step} {completed}/{total}")

        return {
            name: store_targets(teacher, clips, folder / name, hook)
            for name, clips in corpora.items()
            if clips is not None
        }


def pretrain_lips(path: Path, overrides: Sequence[str], resume: bool) -> Path:
    """Run a recipe's `lip_reading` part; return the folder of the model whose video branch has learned."""
    run = Pretraining.open(path, "lip_reading", overrides)
    if not hasattr(run.model, "watch"):
        raise ModelError(
            f"recipe {path}: lip_reading teaches a Dolphin's video branch, and '{run.recipe.model.name}' has none: "
            "lip_coder teaches a DP-LipCoder in any model, lip_pictures an autoencoder"
        )
    feed, teacher = watched_feed(run.recipe, run.settings, lip_recipe(run.model.lip_recipe))
    module = LipReading(run.model, teacher, run.settings)
    trainer = make_trainer(run.settings.output, run.settings, [])
    fit(trainer, module, feed, resume)
    scores = {"val_explained": trainer.callback_metrics["val_explained"]}
    run.export(trainer, f"video branch alone, {taught_by(teacher)}", scores, teaching_card(teacher))
    return run.folder
