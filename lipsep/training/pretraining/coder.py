"""DP-LipCoder learns to give lip pictures back and to know what its teacher knows, before the separator learns.

Three losses (Dolphin, Eq. 15-18): the squared error of the pictures that a mirrored decoder gives back; the commitment
of the semantic path to its code words; the squared error of the teacher's targets as a linear layer reads them from the
semantic features before they are quantised, which Eq. 16 names. Decoder and layer are thrown away. The paper says
neither what the layer is nor over what the squared norms are taken, and the released code has no training of the
encoder. As a recipe asks:

- `reduction`: "mean" takes the mean of the squares, of pixels, of code dimensions and of target dimensions, so that
  lambda = 1 weights the three by their relative errors; "sum_per_frame" takes each frame's squared norm, as Eq. 15-17
  are written, in which 7,744 pixels weigh 121 times as much as 64 code dimensions.
- `codebook`: "moving_average" lets code words follow what chose them, as the released quantiser does; "gradient" has
  the first term of Eq. 15 in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn

from lipsep.encoders.dp_lipcoder import DPLipCoder
from lipsep.lips.recipes import lip_recipe
from lipsep.training.pretraining.pictures import save_strip
from lipsep.training.pretraining.reading import ask, watched_feed
from lipsep.training.pretraining.start import Pretraining
from lipsep.training.pretraining.teachers import Teacher, taught_by, teaching_card
from lipsep.training.recipe import LipCoderPart
from lipsep.training.run import fit, load_best, make_trainer


class LipCoding(lightning.LightningModule):
    """Reconstruction, commitment and distillation; of the validation also how many codes are used, and how evenly.

    A `reconstruction` path alone has the first loss only.
    """

    def __init__(self, encoder: DPLipCoder, teacher: Teacher, settings: LipCoderPart):
        super().__init__()
        self.encoder, self.settings = encoder, settings
        self.decoder = encoder.mirror()
        self.teachers = (teacher,)  # a tuple, so that checkpoints do not hold its weights
        self.weights = {
            "reconstruction": settings.reconstruction,
            "codebook": 1.0,
            "commitment": settings.commitment,
            "distillation": settings.distillation,
        }
        if encoder.quantizer is not None:
            self.to_target = nn.Linear(encoder.feature_dim, teacher.dim)
            self.register_buffer("chosen", torch.zeros(len(encoder.quantizer.codebook)), persistent=False)
            encoder.quantizer.restart_below = settings.restart_below
            if settings.codebook == "gradient":
                encoder.quantizer.learn_by_gradient()

    def give_back(self, lips: Tensor) -> Tensor:
        """Shape: (B, F, S, S) -> (B, F, S, S)."""
        return self.decoder(self.encoder(lips))

    def on_train_batch_start(self, *_: Any) -> None:
        """Code sampling depends on the step alone, so that a resumed run equals an uninterrupted one."""
        place = self.trainer.fit_loop.batch_idx % self.settings.accumulate + self.settings.accumulate * self.global_rank
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step + 499_979 * place)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        losses, _, codes = self._losses(*batch)
        loss = sum(self.weights[name] * value for name, value in losses.items())
        self.log("loss", loss, prog_bar=True)
        self.log_dict(losses)
        if codes is not None:
            self.log("perplexity", perplexity(self._count(codes)))
        return loss

    def on_validation_epoch_start(self) -> None:
        if self.encoder.quantizer is not None:
            self.chosen.zero_()

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        losses, power, codes = self._losses(*batch)
        if codes is not None:
            self.chosen += self._count(codes)
            losses["explained"] = 1 - losses["distillation"] / power
        scores = {f"val_{name}": value for name, value in losses.items()}
        self.log_dict(scores, prog_bar=True, batch_size=len(batch[0]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if self.encoder.quantizer is not None:
            chosen = self.trainer.strategy.reduce(self.chosen, reduce_op="sum")
            self.log("val_codes_used", (chosen > 0).float().sum())
            self.log("val_perplexity", perplexity(chosen))

    def _losses(self, lips: Tensor, heard: Tensor) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
        """Each loss by its name, what the distillation would be of a zero, the codes (B, F)."""
        seen = self.encoder.encode(lips)
        losses = {"reconstruction": self._squared_error(self.decoder(seen.features), lips)}  # Eq. 17
        if seen.quantized is None:
            return losses, None, None
        target, (_, codes, vectors, words) = ask(self.teachers[0], lips, heard), seen.quantized
        losses["commitment"] = self._squared_error(vectors, words.detach())  # Eq. 15, second term
        if self.settings.codebook == "gradient":
            losses["codebook"] = self._squared_error(words, vectors.detach())  # Eq. 15, first term
        losses["distillation"] = self._squared_error(self.to_target(seen.semantics), target)  # Eq. 16
        return losses, self._squared_error(target, torch.zeros_like(target)), codes

    def _squared_error(self, found: Tensor, wanted: Tensor) -> Tensor:
        """By the recipe's `reduction`, mean over frames. Shape: both (B, F, ...) -> ()."""
        square = (found - wanted).square().flatten(2)  # (B, F, N)
        return square.mean() if self.settings.reduction == "mean" else square.sum(-1).mean()

    def _count(self, codes: Tensor) -> Tensor:
        return torch.bincount(codes.flatten(), minlength=len(self.chosen)).float()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)


def perplexity(counts: Tensor) -> Tensor:
    """How many equally frequent codes would be as hard to guess: counts (n,) -> scalar in [1, n]."""
    share = counts / counts.sum()
    return torch.special.entr(share).sum().exp()


def pretrain_coder(path: Path, overrides: Sequence[str], resume: bool) -> Path:
    """Run a recipe's `lip_coder` part; return the folder of the model whose video encoder has learned."""
    run = Pretraining.open(path, "lip_coder", overrides)
    settings, encoder = run.settings, run.encoder(DPLipCoder, "a DP-LipCoder")
    feed, teacher = watched_feed(run.recipe, settings, lip_recipe(run.model.lip_recipe))
    module = LipCoding(encoder, teacher, settings)
    watched = "val_reconstruction"
    best = ModelCheckpoint(settings.output / "checkpoints", "best", watched, mode="min", enable_version_counter=False)
    trainer = make_trainer(
        settings.output, settings, [best, EarlyStopping(watched, 0.0, settings.stop_after_epochs, mode="min")]
    )
    fit(trainer, module, feed, resume)
    load_best(module, best, "")
    scores = trainer.validate(module, feed, verbose=False)[0]
    learned = f"video encoder alone, by its own pictures and {taught_by(teacher)}"
    run.export(trainer, learned, scores, teaching_card(teacher))
    if trainer.is_global_zero:
        save_strip(settings.output, feed.validation[0][0], module.cpu().eval().give_back)
    return run.folder
