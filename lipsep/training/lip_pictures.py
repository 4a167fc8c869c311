"""Teach a frame autoencoder to give lip pictures back, before it is frozen and the separator learns (BIN, AVLIT).

As published: mean squared error, AdamW, the learning rate times 0.8 after 5 epochs without progress. The published runs
watch the training loss for that and store latents on disk; here the held-out clips' loss is watched, and the encoder
stays in the model. What it makes of one held-out clip is written beside it, for `lipsep plot lips`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lipsep.checkpoints import save_model
from lipsep.constants import FPS
from lipsep.data.clips import TalkingClips
from lipsep.data.mouth_augmentation import MouthAugmentation, principal_motions
from lipsep.encoders.autoencoder import FrameAutoencoder
from lipsep.errors import ModelError
from lipsep.lips import LipRecipe, lip_recipe, normalise_picture, picture_mouth
from lipsep.models import create_model
from lipsep.training.feed import Feed
from lipsep.training.recipe import LipPicturesPart, load_recipe
from lipsep.training.run import fit, make_trainer, mixing_config, prepare_clips


class WatchedMouths(Dataset):
    """Endless lip pictures (F, S, S), which depend on the seed, the epoch and the index only."""

    def __init__(
        self,
        clips: TalkingClips,
        augment: MouthAugmentation | None,
        recipe: LipRecipe,
        n_frames: int,
        n_items: int,
        seed: int,
        epoch: int = 0,
    ):
        self.clips, self.augment, self.recipe, self.n_frames = clips, augment, recipe, n_frames
        self.n_items, self.seed, self.epoch = n_items, seed, epoch

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.n_items:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        mouth = self.clips[int(rng.integers(len(self.clips)))].mouth
        first = int(rng.integers(max(1, len(mouth) - self.n_frames + 1)))
        part = np.resize(mouth[first : first + self.n_frames], (self.n_frames, *mouth.shape[1:]))
        drawn = self.augment(part, rng) if self.augment else normalise_picture(picture_mouth(part, self.recipe))
        return torch.from_numpy(drawn)


class LipPictures(lightning.LightningModule):
    """Mean squared error between pictures and what the autoencoder gives back."""

    def __init__(self, autoencoder: FrameAutoencoder, settings: LipPicturesPart):
        super().__init__()
        self.autoencoder, self.settings = autoencoder, settings

    def training_step(self, lips: Tensor, _: int) -> Tensor:
        loss = self._error(lips)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, lips: Tensor, _: int) -> None:
        self.log("val_error", self._error(lips), prog_bar=True, batch_size=len(lips), sync_dist=True)

    def _error(self, lips: Tensor) -> Tensor:
        return (self.autoencoder.decode(self.autoencoder(lips)) - lips).square().mean()

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.settings
        optimiser = torch.optim.AdamW(
            self.parameters(), settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.8, patience=5)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": plateau, "monitor": "val_error"}}


def pretrain_pictures(path: Path, resume: bool) -> Path:
    """Run a recipe's `lip_pictures` part; return the folder of the model whose autoencoder has learned."""
    recipe = load_recipe(path)
    settings = recipe.lip_pictures
    if settings is None:
        raise ModelError(f"recipe {path} has no part 'lip_pictures', so there is nothing to pretrain")
    lightning.seed_everything(settings.seed, verbose=False)
    model = create_model(recipe.model.name, **recipe.model.overrides)
    encoder = getattr(model, "video_encoder", None)
    if not isinstance(encoder, FrameAutoencoder):
        raise ModelError(f"recipe {path}: lip_pictures teaches an autoencoder, and '{recipe.model.name}' has none")
    training, validation, _, _ = prepare_clips(recipe.data)
    mixing, pictures = mixing_config(recipe.data), lip_recipe(model.lip_recipe)
    augment = None
    if mixing.mouths is not None:
        augment = MouthAugmentation(mixing.mouths, principal_motions(training.mouths), pictures)
    n_frames, n_items = round(mixing.segment_s * FPS), settings.steps_per_epoch * settings.accumulate * settings.batch
    held_out = WatchedMouths(validation, None, pictures, n_frames, settings.validation_examples, settings.seed + 1)
    feed = Feed(
        WatchedMouths(training, augment, pictures, n_frames, n_items, settings.seed),
        held_out,
        settings.batch,
        settings.workers,
        default_collate,
    )
    trainer = make_trainer(settings.output, settings, [])
    fit(trainer, LipPictures(encoder, settings), feed, resume)
    folder = settings.output / "model"
    if not trainer.is_global_zero:
        return folder
    save_model(
        model,
        folder,
        {
            "licence": recipe.licence,
            "provenance": f"autoencoder alone, taught to give lip pictures back: {recipe.provenance}",
            "validation": {"val_error": round(float(trainer.callback_metrics["val_error"]), 4)},
            "recipe": path.name,
        },
    )
    encoder.eval()
    save_strip(settings.output, held_out[0], lambda lips: encoder.decode(encoder(lips)))
    return folder


@torch.inference_mode()
def save_strip(output: Path, strip: Tensor, give_back: Callable[[Tensor], Tensor]) -> None:
    """Write one held-out clip (F, S, S) and what becomes of it, for `lipsep plot lips`."""
    np.save(output / "original.npy", strip.numpy())
    np.save(output / "reconstruction.npy", give_back(strip[None])[0].cpu().numpy())
