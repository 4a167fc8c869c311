"""Teach a model's lips to hear before it separates: from the lip pictures alone, predict the sound that they make.

What the video branch of a separator must find out, which mouth belongs to which sound, it learns slowly through the
separator. A linear layer on that branch that predicts the log-mel spectrum of the clean voice teaches the same in a
fraction of the time, and needs no teacher network: the target is computed from the sound. The layer is thrown away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from lipsep.checkpoints import save_model
from lipsep.constants import FPS
from lipsep.data.clips import TalkingClips
from lipsep.data.mixing import MixingConfig
from lipsep.data.mouth_augmentation import MouthAugmentation, principal_motions
from lipsep.data.pace import change_pace
from lipsep.data.sound_to_mouth import N_MELS, LogMel
from lipsep.errors import ModelError
from lipsep.lips import LipRecipe, lip_recipe, normalise_picture, picture_mouth
from lipsep.models import SeparationModel, create_model
from lipsep.training.feed import Feed
from lipsep.training.recipe import load_recipe
from lipsep.training.run import fit, make_trainer, mixing_config, plain, prepare_clips

MELS_PER_FRAME = 4  # spectra per video frame
UNFILMED = 1 / 3  # share of examples whose mouth was made from the sound


class WatchedVoices(Dataset):
    """Endless examples: lip pictures (F, S, S) and the log-mel spectrum of the voice (F, 4 * 40), which depend on the
    seed, the epoch and the index only."""

    def __init__(
        self,
        filmed: TalkingClips,
        unfilmed: TalkingClips | None,
        config: MixingConfig,
        recipe: LipRecipe,
        n_items: int,
        seed: int,
        epoch: int = 0,
    ):
        self.filmed, self.unfilmed, self.config = filmed, unfilmed, config
        self.recipe, self.n_items, self.seed, self.epoch = recipe, n_items, seed, epoch
        self.log_mel = LogMel()
        self.n_frames = round(config.segment_s * FPS)
        self.augment = None
        if config.mouths is not None:
            self.augment = MouthAugmentation(config.mouths, principal_motions(filmed.mouths), recipe)

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.n_items:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        made = self.unfilmed is not None and rng.random() < UNFILMED
        corpus = self.unfilmed if made else self.filmed
        pace = rng.uniform(*self.config.pace)
        voice, mouth = change_pace(corpus[int(rng.integers(len(corpus)))], pace, self.n_frames, rng)
        plain = self.augment is None
        pictures = normalise_picture(picture_mouth(mouth, self.recipe)) if plain else self.augment(mouth, rng)
        level = 0.05 / (np.sqrt(np.mean(np.square(voice))) + 1e-4)
        spectrum = self.log_mel(torch.from_numpy((level * voice).astype(np.float32))[None])[0]  # (mel, 4 F)
        return torch.from_numpy(pictures), spectrum.unflatten(-1, (-1, MELS_PER_FRAME)).permute(1, 2, 0).flatten(1)


class LipReading(lightning.LightningModule):
    """Least squares between the spectrum and a linear layer on what the model sees (`watch`)."""

    def __init__(self, model: SeparationModel, settings: Any):
        super().__init__()
        self.model, self.settings = model, settings
        self.to_spectrum = nn.Linear(model.config.visual_channels, MELS_PER_FRAME * N_MELS)

    def on_train_batch_start(self, *_: Any) -> None:
        """Dropout depends on the step alone, so that a resumed run equals an uninterrupted one."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        lips, spectrum = batch
        loss = (self.to_spectrum(self.model.watch(lips)) - spectrum).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        lips, spectrum = batch
        error = (self.to_spectrum(self.model.watch(lips)) - spectrum).square().mean()
        self.log("val_explained", 1 - error / spectrum.square().mean(), prog_bar=True, batch_size=len(lips))

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.settings
        optimiser = torch.optim.Adam(self.parameters(), lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, settings.epochs * settings.steps_per_epoch, pct_start=0.1
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def pretrain_lips(path: Path, resume: bool) -> Path:
    """Run a recipe's `lip_reading` part; return the folder of the model whose video branch has learned."""
    recipe = load_recipe(path)
    settings = recipe.lip_reading
    if settings is None:
        raise ModelError(f"recipe {path} has no part 'lip_reading', so there is nothing to pretrain")
    lightning.seed_everything(settings.seed, verbose=False)
    model = create_model(recipe.model.name, **recipe.model.overrides)
    training, validation, unfilmed, _ = prepare_clips(recipe.data)
    mixing = mixing_config(recipe.data)
    lips = lip_recipe(model.lip_recipe)
    n_items = settings.steps_per_epoch * settings.accumulate * settings.batch
    feed = Feed(
        WatchedVoices(training, unfilmed, mixing, lips, n_items, settings.seed),
        WatchedVoices(validation, None, plain(mixing), lips, settings.validation_examples, settings.seed + 1),
        settings.batch,
        settings.workers,
        default_collate,
    )
    module = LipReading(model, settings)
    folder = settings.output
    trainer = make_trainer(folder, settings, [])
    fit(trainer, module, feed, resume)
    if not trainer.is_global_zero:
        return folder / "model"
    scores = {"val_explained": round(float(trainer.callback_metrics["val_explained"]), 3)}
    save_model(
        model,
        folder / "model",
        {
            "licence": recipe.licence,
            "provenance": f"video branch alone, taught to predict the sound: {recipe.provenance}",
            "teacher": "log_mel",
            "validation": scores,
            "recipe": path.name,
        },
    )
    return folder / "model"
