"""From a recipe to an exported model: prepare the corpora, train with checkpoints, export what was best."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lipsep.checkpoints.beginnings import take_all, take_separator
from lipsep.checkpoints.folder import save_model
from lipsep.data.corpora.opening import held_out_talkers
from lipsep.errors import ModelError
from lipsep.lips.recipes import lip_recipe
from lipsep.losses import LEVEL_KEEPING_LOSSES
from lipsep.models import create_model
from lipsep.training.callbacks import EpochBar, SaveOnSigterm
from lipsep.training.corpora import mixing_config, prepare_feed
from lipsep.training.feed import Feed
from lipsep.training.held_out import HELD_OUT, PER_PAIR, score_pairs, write_report
from lipsep.training.loggers import make_loggers
from lipsep.training.recipe import LoopPart, Recipe, TrainingPart, load_recipe
from lipsep.training.separation import SeparationTraining

TRIAL_MIXTURES = 8  # that a trial is validated on, at most


def run_recipe(path: Path, overrides: Sequence[str], trial_steps: int | None, resume: bool) -> Path:
    """Train what the recipe says; see `lipsep.training.train`."""
    recipe = load_recipe(path, overrides)
    if trial_steps is not None:
        recipe, resume = _trial(recipe, trial_steps), False
    settings = recipe.training
    lightning.seed_everything(settings.seed, verbose=False)
    model = create_model(recipe.model.name, **recipe.model.overrides)
    taught = {"teacher": "none"}
    if recipe.model.initial_weights:
        initial = take_all(model, recipe.model.initial_weights)
        taught = {key: value for key, value in initial.metadata.items() if key.startswith("teacher")}
    elif recipe.model.initial_separator:
        take_separator(model, recipe.model.initial_separator)
    face_size = model.config.face_size if model.needs_faces else None
    feed = prepare_feed(recipe, lip_recipe(model.lip_recipe), face_size)
    held_out = held_out_talkers(recipe.data)
    module = SeparationTraining(model, settings)
    best = ModelCheckpoint(
        recipe.output / "checkpoints", "best", "val_si_snri", mode="max", enable_version_counter=False
    )
    trainer = make_trainer(recipe.output, settings, _callbacks(settings, best))
    fit(trainer, module, feed, resume)
    folder = recipe.output / "model"
    if not trainer.is_global_zero:
        return folder
    scores = {
        name: round(float(value), 3) for name, value in trainer.callback_metrics.items() if name.startswith("val_")
    }
    if settings.schedule == "plateau":
        load_best(model, best, "model.")
        scores = {"val_si_snri": round(float(best.best_model_score), 3)}
    reported = {}
    if held_out is not None:
        n_mixtures = PER_PAIR if trial_steps is None else 1
        rows = score_pairs(module, held_out, mixing_config(recipe.data), n_mixtures, settings.seed + 2, face_size)
        reported = {"held_out": write_report(rows, recipe.output / HELD_OUT)}
    save_model(
        model,
        folder,
        {
            "keeps_level": settings.loss in LEVEL_KEEPING_LOSSES,
            "licence": recipe.licence,
            "provenance": recipe.provenance,
            **taught,
            "validation": scores,
            **reported,
            "recipe": path.name,
        },
    )
    required = settings.required_si_snri_db
    if required is not None and not scores["val_si_snri"] >= required:
        raise ModelError(f"trained '{folder}' to {scores['val_si_snri']} dB SI-SNRi; its recipe requires {required} dB")
    return folder


def _trial(recipe: Recipe, steps: int) -> Recipe:
    """One short epoch of it, in a folder of its own, of which nothing is required."""
    settings = recipe.training
    short = {
        "steps_per_epoch": steps,
        "epochs": 1,
        "validation_mixtures": min(settings.validation_mixtures, TRIAL_MIXTURES),
        "required_si_snri_db": None,
    }
    return recipe.model_copy(update={"training": settings.model_copy(update=short), "output": recipe.output / "trial"})


def trial_of_pretraining(part: str, output: Path, steps: int) -> list[str]:
    """What makes one short epoch of a recipe's pretraining, in a folder of its own, and lets the training begin there.

    Args:
        part, output: as `Recipe.pretraining`.
    """
    checked = "validation_mixtures" if part == "voices" else "validation_examples"
    changes = {
        f"{part}.steps_per_epoch": steps,
        f"{part}.epochs": 1,
        f"{part}.{checked}": TRIAL_MIXTURES,
        f"{part}.output": str(output / "trial"),
        "model.initial_weights": str(output / "trial" / "model"),
    }
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def fit(trainer: lightning.Trainer, module: lightning.LightningModule, feed: Feed, resume: bool) -> None:
    """Run the loop, from its last checkpoint if there is one to resume; a SIGTERM takes effect when that is written.

    Of a run that was cut off after its last step the weights, averaged where they are to be, are validated once more.
    """
    last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    resume = resume and last.is_file()
    try:
        trainer.fit(module, feed, ckpt_path=str(last) if resume else None, weights_only=True)
    except SIGTERMException:
        signal.raise_signal(signal.SIGTERM)
        raise
    if resume and not trainer.callback_metrics:  # there was nothing left to do
        module.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])
        trainer.validate(module, feed, verbose=False)


def load_best(part: torch.nn.Module, best: ModelCheckpoint, prefix: str) -> None:
    """Go back to the weights with the best validation; `prefix`: of the part's keys in the whole training's."""
    weights = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    part.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)})


def make_trainer(output: Path, settings: LoopPart, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    """The loop, with the last checkpoint and the logs in `output`."""
    many = settings.devices * settings.nodes > 1
    last = ModelCheckpoint(output / "checkpoints", filename="last", enable_version_counter=False)
    loggers = make_loggers(settings.loggers, output)
    rates = [LearningRateMonitor()] if loggers else []
    return lightning.Trainer(
        default_root_dir=output,
        accelerator="auto",
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp_find_unused_parameters_true" if many else "auto",  # some published layers are never used
        sync_batchnorm=many and torch.cuda.is_available(),
        use_distributed_sampler=False,  # `Feed` shares out the examples
        precision=settings.precision,
        max_epochs=settings.epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip_norm,
        reload_dataloaders_every_n_epochs=1,  # the mixtures of an epoch depend on its number
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=[*callbacks, last, *rates, SaveOnSigterm(output / "checkpoints" / "last.ckpt"), EpochBar()],
        log_every_n_steps=min(20, settings.steps_per_epoch * settings.accumulate),
        enable_model_summary=False,
    )


def _callbacks(settings: TrainingPart, best: ModelCheckpoint) -> list[lightning.Callback]:
    """Those that only some recipes ask for."""
    callbacks: list[lightning.Callback] = []
    if settings.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=settings.ema_decay))
    if settings.schedule == "plateau":
        callbacks += [best, EarlyStopping("val_si_snri", 0.0, settings.stop_after_epochs, mode="max")]
    return callbacks
