"""Teach a frame autoencoder to give lip pictures back, before it is frozen and the separator learns (BIN, AVLIT).

As published: mean squared error, AdamW, the learning rate times 0.8 after 5 epochs without progress. The published runs
watch the training loss for that and store latents on disk; here the held-out clips' loss is watched, and the encoder
stays in the model. What it makes of one held-out clip is written beside it, for `lipsep plot lips`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lipsep.constants import FPS
from lipsep.data.corpora.opening import Clips, prepare_clips
from lipsep.data.mixing.lip_view import LipView
from lipsep.encoders.autoencoder import FrameAutoencoder
from lipsep.lips.recipes import lip_recipe
from lipsep.training.corpora import mixing_config
from lipsep.training.feed import Feed
from lipsep.training.pretraining.start import Pretraining
from lipsep.training.recipe import LipPicturesPart
from lipsep.training.run import fit, make_trainer


class WatchedMouths(Dataset):
    """Endless lip pictures (F, S, S), which depend on the seed, the epoch and the index only."""

    def __init__(self, clips: Clips, view: LipView, n_frames: int, n_items: int, seed: int, epoch: int = 0):
        self.clips, self.view, self.n_frames = clips, view, n_frames
        self.n_items, self.seed, self.epoch = n_items, seed, epoch

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.n_items:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        clip = self.clips[int(rng.integers(len(self.clips)))]
        first = int(rng.integers(max(1, clip.n_frames - self.n_frames + 1)))
        position = first + np.arange(self.n_frames) % min(self.n_frames, clip.n_frames)  # short clips again and again
        return torch.from_numpy(self.view(clip, position, rng))


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


def pretrain_pictures(path: Path, overrides: Sequence[str], resume: bool) -> Path:
    """Run a recipe's `lip_pictures` part; return the folder of the model whose autoencoder has learned."""
    run = Pretraining.open(path, "lip_pictures", overrides)
    settings, encoder = run.settings, run.encoder(FrameAutoencoder, "an autoencoder")
    mixing, pictures = mixing_config(run.recipe.data), lip_recipe(run.model.lip_recipe)
    training, validation, _, _ = prepare_clips(run.recipe.data, pictures)
    n_frames, n_items = round(mixing.segment_s * FPS), settings.steps_per_epoch * settings.accumulate * settings.batch
    varied = LipView(training, None, mixing.mouths, mixing.random_crop, pictures)
    as_they_are = LipView(validation, None, None, False, pictures)
    learn = WatchedMouths(training, varied, n_frames, n_items, settings.seed)
    held_out = WatchedMouths(validation, as_they_are, n_frames, settings.validation_examples, settings.seed + 1)
    feed = Feed(learn, held_out, settings.batch, settings.workers, default_collate)
    trainer = make_trainer(settings.output, settings, [])
    fit(trainer, LipPictures(encoder, settings), feed, resume)
    learned = "autoencoder alone, taught to give lip pictures back"
    run.export(trainer, learned, {"val_error": trainer.callback_metrics["val_error"]})
    if trainer.is_global_zero:
        encoder.eval()
        save_strip(settings.output, held_out[0], lambda lips: encoder.decode(encoder(lips)))
    return run.folder


@torch.inference_mode()
def save_strip(output: Path, strip: Tensor, give_back: Callable[[Tensor], Tensor]) -> None:
    """Write one held-out clip (F, S, S) and what becomes of it, for `lipsep plot lips`."""
    np.save(output / "original.npy", strip.numpy())
    np.save(output / "reconstruction.npy", give_back(strip[None])[0].cpu().numpy())
