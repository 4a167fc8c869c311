"""From a recipe to an exported model: prepare the corpora, train with checkpoints, export what was best."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from lipsep.checkpoints import load_model, save_model
from lipsep.data.clips import TalkingClips
from lipsep.data.mixing import MixingConfig, Mixtures, collate
from lipsep.data.mouth_augmentation import MouthConfig
from lipsep.data.prepare import Hook, filmed_corpus, noise_corpus, unfilmed_corpus
from lipsep.data.synthetic import synthetic_corpus, with_foreign_mouths
from lipsep.errors import ModelError
from lipsep.lips import LipRecipe, lip_recipe
from lipsep.losses import LEVEL_KEEPING_LOSSES
from lipsep.models import create_model
from lipsep.training.callbacks import SaveOnSigterm
from lipsep.training.feed import Feed
from lipsep.training.recipe import DataPart, LoopPart, Recipe, SyntheticPart, TrainingPart, load_recipe
from lipsep.training.separation import SeparationTraining


def run_recipe(path: Path, resume: bool) -> Path:
    """Train what the recipe says; see `lipsep.training.train`."""
    recipe = load_recipe(path)
    settings = recipe.training
    lightning.seed_everything(settings.seed, verbose=False)
    model = create_model(recipe.model.name, **recipe.model.overrides)
    taught = {"teacher": "none"}
    if recipe.model.initial_weights:
        initial = load_model(recipe.model.initial_weights)
        model.load_state_dict(initial.state_dict())
        taught = {key: value for key, value in initial.metadata.items() if key.startswith("teacher")}
    feed = prepare_feed(recipe, lip_recipe(model.lip_recipe))
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
    save_model(
        model,
        folder,
        {
            "keeps_level": settings.loss in LEVEL_KEEPING_LOSSES,
            "licence": recipe.licence,
            "provenance": recipe.provenance,
            **taught,
            "validation": scores,
            "recipe": path.name,
        },
    )
    required = settings.required_si_snri_db
    if required is not None and not scores["val_si_snri"] >= required:
        raise ModelError(f"trained '{folder}' to {scores['val_si_snri']} dB SI-SNRi; its recipe requires {required} dB")
    return folder


def fit(trainer: lightning.Trainer, module: lightning.LightningModule, feed: Feed, resume: bool) -> None:
    """Run the loop, from its last checkpoint if there is one to resume; a SIGTERM takes effect when that is written."""
    last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    try:
        trainer.fit(module, feed, ckpt_path=str(last) if resume and last.is_file() else None, weights_only=True)
    except SIGTERMException:
        signal.raise_signal(signal.SIGTERM)
        raise


def load_best(part: torch.nn.Module, best: ModelCheckpoint, prefix: str) -> None:
    """Go back to the weights with the best validation; `prefix`: of the part's keys in the whole training's."""
    weights = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    part.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)})


def make_trainer(output: Path, settings: LoopPart, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    """The loop, with the last checkpoint and the logs in `output`."""
    many = settings.devices * settings.nodes > 1
    last = ModelCheckpoint(output / "checkpoints", filename="last", enable_version_counter=False)
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
        logger=[CSVLogger(output, name="log"), TensorBoardLogger(output, name="tensorboard")],  # resumed: a new version
        callbacks=[*callbacks, last, LearningRateMonitor(), SaveOnSigterm(output / "checkpoints" / "last.ckpt")],
        log_every_n_steps=20,
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


def prepare_feed(recipe: Recipe, lips: LipRecipe) -> Feed:
    """The recipe's corpora as training and validation mixtures; prepares on disk what is not there yet."""
    settings = recipe.training
    training, validation, unfilmed, noises = prepare_clips(recipe.data)
    mixing = mixing_config(recipe.data)
    n_items = settings.steps_per_epoch * settings.accumulate * settings.batch_mixtures
    return Feed(
        Mixtures(training, unfilmed, noises, mixing, lips, n_items, settings.seed),
        Mixtures(validation, None, None, plain(mixing), lips, settings.validation_mixtures, seed=settings.seed + 1),
        settings.batch_mixtures,
        settings.workers,
        collate,
    )


def prepare_clips(data: DataPart) -> tuple[TalkingClips, TalkingClips, TalkingClips | None, np.ndarray | None]:
    """Clips to train on and to validate on, unfilmed voices with made mouths, noises."""
    with Console(stderr=True).status("preparing corpora") as status:

        def hook(step: str, completed: int, total: int | None) -> None:
            status.update(f"preparing corpora: {step} {completed}/{total}")

        training, validation = synthetic_split(data.synthetic) if data.synthetic else filmed_split(data, hook)
        unfilmed = unfilmed_corpus(data.unfilmed, training, data.prepared, hook) if data.unfilmed else None
        noises = noise_corpus(data.noises, hook) if data.noises else None
    return training, validation, unfilmed, noises


def mixing_config(data: DataPart) -> MixingConfig:
    """The recipe's changes to how examples are drawn.

    Raises:
        ModelError: it changes what there is not.
    """
    values = dict(data.mixing)
    if values.get("mouths") is not None:
        values["mouths"] = _checked(MouthConfig, values["mouths"], "data.mixing.mouths")
    return _checked(MixingConfig, values, "data.mixing")


def plain(mixing: MixingConfig) -> MixingConfig:
    """Two filmed clips as they are, for validation."""
    return MixingConfig(
        segment_s=mixing.segment_s,
        filmed_pairs=1.0,
        alike=1.0,
        own_pace=1.0,
        aligned=1.0,
        crossed_pairs=0.0,
        noise=0.0,
        mouths=None,
    )


def _checked(config_class: type, values: dict[str, Any], where: str) -> Any:
    known = {field.name for field in dataclasses.fields(config_class)}
    if unknown := set(values) - known:
        raise ModelError(f"recipe: {where} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    return config_class(**values)


def filmed_split(data: DataPart, hook: Hook) -> tuple[TalkingClips, TalkingClips]:
    """Training and validation clips of the recipe's filmed corpus."""
    filmed = filmed_corpus(data.filmed, data.prepared, hook)
    return split_by_prefix(filmed, data.filmed_test_prefixes, data.filmed_validation_prefixes)


def synthetic_split(part: SyntheticPart) -> tuple[TalkingClips, TalkingClips]:
    """Training and validation clips of different synthetic talkers."""
    n_talkers = part.talkers + part.held_out_talkers
    clips = synthetic_corpus(n_talkers, part.clips_per_talker, part.clip_s, part.seed)
    if part.foreign_mouths:
        clips = with_foreign_mouths(clips)
    n_training = part.talkers * part.clips_per_talker
    return clips.select(range(n_training)), clips.select(range(n_training, len(clips)))


def split_by_prefix(
    clips: TalkingClips, test_prefixes: tuple[str, ...], validation_prefixes: tuple[str, ...]
) -> tuple[TalkingClips, TalkingClips]:
    """Training and validation clips; those whose names begin with a test prefix are in neither."""
    kept = [index for index, name in enumerate(clips.names) if not name.startswith(test_prefixes)]
    validation = [index for index in kept if clips.names[index].startswith(validation_prefixes)]
    training = sorted(set(kept) - set(validation))
    if len(training) < 2 or len(validation) < 2:
        raise ModelError(
            f"recipe: {len(training)} clips to train on and {len(validation)} to validate; needs 2 of each"
        )
    return clips.select(training), clips.select(validation)
