"""Recipes: what a training run is made of, as YAML checked before anything starts.

A recipe may name another in `extends`; it then says only what differs. Paths are relative to the recipe's folder, or
to the current one where they are given on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from lipsep.data.settings import DataPart, Strict
from lipsep.errors import ModelError
from lipsep.training.packaged import locate


class _Yaml(yaml.SafeLoader):
    """YAML in which 3e-4 is a number, as in YAML 1.2; PyYAML follows 1.1 and asks for 3.0e-4."""


_Yaml.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


class ModelPart(Strict):
    """Which network, and what differs from its registered configuration."""

    name: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    initial_weights: str | None = None  # name, or folder that begins with '.', of a model of the same sizes
    initial_separator: str | None = None  # the same with another video encoder: the rest is taken


class LoopPart(Strict):
    """What every training loop needs to know."""

    steps_per_epoch: int  # of the optimiser
    epochs: int  # at most
    accumulate: int = 1  # batches whose gradients are added up to one step of the optimiser
    clip_norm: float = 5.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    devices: int = 1  # processes per machine, each with a GPU where there are any; they share each batch
    nodes: int = 1  # machines, started by torchrun or SLURM
    workers: int = 1
    seed: int = 0
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv", "tensorboard")  # into the output


class TrainingPart(LoopPart):
    """How the separator learns. Defaults are plain; what the papers add is asked for by name."""

    loss: Literal["si_snr", "snr", "co_separation"]
    """co_separation: VisualVoice's own losses (`lipsep.training.co_separation`), on pairs of mixtures."""
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    identity_learning_rate: float | None = None  # with co_separation, of what knows faces and voices; None: the same
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["cosine", "plateau", "steps"] = "cosine"
    """cosine: up over `warmup_steps`, then half a cosine down to zero over all epochs; the last weights are exported.
    plateau: halved after some epochs without a better validation, ended after more; the best weights are exported.
    steps: a tenth from each of `drop_at_steps` on; the last weights are exported."""
    warmup_steps: int = 200  # of the cosine
    drop_at_steps: tuple[int, ...] = ()
    halve_after_epochs: int = 15  # of the plateau
    plateau_watches: Literal["val_si_snri", "loss_of_epoch"] = "val_si_snri"  # the training's own, as BIN's authors do
    stop_after_epochs: int = 30
    frozen_video: Literal[False, True, "encoder"] = False
    """true: the video branch stays as its initial weights are, of a Dolphin all that `lip_reading` teaches;
    encoder: the video encoder alone does, which is all that `lip_coder` teaches."""
    auxiliary_weight: float = 0.0  # first lambda of Dolphin's auxiliary branch (`lipsep.training.auxiliary`)
    stft_weight: float = 0.0  # of the multi-resolution STFT loss
    ema_decay: float | None = None  # validate and export a moving average of the weights
    batch_mixtures: int  # each asked with both mouths, so the batch is twice as large; of co_separation: pairs of them
    validation_mixtures: int = 100
    required_si_snri_db: float | None = None  # a run that ends below this on its validation mixtures has failed

    @model_validator(mode="after")
    def _one_kind_of_loss(self) -> TrainingPart:
        if self.loss == "co_separation" and (self.auxiliary_weight or self.stft_weight):
            raise ValueError("co_separation compares masks: leave 'auxiliary_weight' and 'stft_weight' out")
        if self.loss != "co_separation" and self.identity_learning_rate is not None:
            raise ValueError("'identity_learning_rate' is for loss co_separation")
        return self


class TeacherPart(Strict):
    """Who tells the video encoder what a frame means (`lipsep.training.pretraining.teachers`)."""

    name: Literal["log_mel", "av_hubert"] = "log_mel"
    weights: Path | None = None  # of av_hubert: the authors' large_vox_433h.pt
    targets: Path | None = None  # folder in which targets are stored, once; without it they are made as they are needed


class LipReadingPart(LoopPart):
    """How the video branch learns before the separator does (`lipsep pretrain`)."""

    teacher: TeacherPart = TeacherPart()
    learning_rate: float = 3e-3
    batch: int
    validation_examples: int = 100
    output: Path


class LipPicturesPart(LoopPart):
    """How a frame autoencoder learns before the separator does (`lipsep pretrain`), as AVLIT and BIN publish it."""

    learning_rate: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    batch: int  # clips
    validation_examples: int = 32
    output: Path


class LipCoderPart(LoopPart):
    """How DP-LipCoder learns before the separator does (`lipsep pretrain`); see `lipsep.training.pretraining.coder`."""

    teacher: TeacherPart = TeacherPart()
    learning_rate: float = 1e-3
    reconstruction: float = 1.0  # lambda_recon, Eq. 18 of Dolphin
    commitment: float = 1.0  # beta, Eq. 15
    distillation: float = 1.0  # lambda_distill, Eq. 18
    reduction: Literal["mean", "sum_per_frame"] = "mean"
    codebook: Literal["moving_average", "gradient"] = "moving_average"
    restart_below: float = 0.0  # codes whose moving count per step falls below this begin anew; 0: never
    stop_after_epochs: int = 20  # without a better reconstruction
    batch: int  # clips
    validation_examples: int = 100
    output: Path


class VoicesPart(LoopPart):
    """How `voices_first` learns to take voices apart by their sound, before lips choose among them."""

    initial_weights: str | None = None  # to learn on from: a name, or a folder that begins with '.'
    learning_rate: float = 1.2e-3
    warmup_steps: int = 150
    mixing: dict[str, Any] = Field(default_factory=dict)  # changes of `lipsep.data.mixing.blind.BlindConfig`
    rooms: int = 240  # small rooms to draw from; 0: none
    harder_until_epoch: int = 0  # mixtures are easier before
    clustering_weight: float = 30.0  # of the deep clustering loss, whose layer is thrown away
    stft_weight: float = 0.0
    ema_decay: float = 0.999  # validate and export a moving average of the weights
    batch: int  # mixtures
    validation_mixtures: int = 64
    output: Path


class Recipe(Strict):
    """A complete training run."""

    model: ModelPart
    data: DataPart
    lip_reading: LipReadingPart | None = None
    lip_pictures: LipPicturesPart | None = None
    lip_coder: LipCoderPart | None = None
    voices: VoicesPart | None = None
    training: TrainingPart
    output: Path  # run folder: checkpoints, logs, exported model; {model} stands for the model's name
    licence: str  # of the weights, for the model card
    provenance: str  # one sentence for the model card: what the weights were trained on

    @property
    def pretraining(self) -> tuple[str, Path] | None:
        """The part that makes the recipe's own `initial_weights`, and the run folder of it; None: it makes none."""
        for name in ("lip_reading", "lip_pictures", "lip_coder", "voices"):
            part = getattr(self, name)
            if part and self.model.initial_weights == str(part.output / "model"):
                return name, part.output
        return None

    @model_validator(mode="after")
    def _one_beginning(self) -> Recipe:
        pretrained = self.lip_reading or self.lip_pictures or self.lip_coder or self.voices
        if self.model.initial_weights and self.model.initial_separator and not pretrained:
            raise ValueError("'initial_weights' have a separator of their own: leave 'initial_separator' out")
        return self


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge `extends`, then `overrides`, check, and make paths absolute.

    Args:
        path: a file, or the name of a packaged recipe (`lipsep.training.packaged`).
        overrides: `KEY=VALUE` with dots in the key and YAML in the value, as in "training.learning_rate=3e-4".

    Raises:
        ModelError: unreadable file, unknown or missing key, wrong type; the message names the key.
    """
    merged = _read(*locate(path))
    for override in overrides:
        merged = _merge(merged, _parse(override))
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise ModelError(f"recipe {path}: {where}: {what}") from None
    return recipe.model_copy(update={"output": Path(str(recipe.output).replace("{model}", recipe.model.name))})


def _read(file: Path, place: Path) -> dict[str, Any]:
    """The settings in `file`, whose paths are meant from where `place` lies."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Yaml)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise ModelError(f"recipe {file} cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise ModelError(f"recipe {file} holds no settings; see recipes/ for examples")
    base = content.pop("extends", None)
    _resolve_paths(content, place.parent)
    return _merge(_read(file.parent / base, place.parent / base), content) if base else content


def _parse(override: str) -> dict[str, Any]:
    """`a.b=1` -> {"a": {"b": 1}}, paths made absolute.

    Raises:
        ModelError: no `=`, an empty key, or a value that is not YAML.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ModelError(f"'{override}' is no KEY=VALUE: write for example training.learning_rate=3e-4")
    try:
        value = yaml.load(text, _Yaml)
    except yaml.YAMLError as error:
        raise ModelError(f"'{override}': the value is not YAML: {str(error).splitlines()[0]}") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    _resolve_paths(value, Path.cwd())
    return value


def _resolve_paths(content: dict[str, Any], folder: Path) -> None:
    pretraining = [_part(content, name) for name in ("lip_reading", "lip_pictures", "lip_coder", "voices")]
    with_output = [(part, ("output",)) for part in (content, *pretraining)]
    teachers = [(_part(part, "teacher"), ("weights", "targets")) for part in pretraining]
    data = _part(content, "data")
    if "published" in data:  # as 0.1 called it; renamed here, so that it may change what a newer recipe says
        data["finished"] = data.pop("published")
    corpora = (data, ("finished", "filmed", "corpora", "unfilmed", "noises", "prepared"))
    parts = [corpora, *with_output, *teachers]
    for part in (_part(content, "model"), _part(content, "voices")):
        for key in ("initial_weights", "initial_separator"):
            if str(part.get(key, "")).startswith("."):
                part[key] = str((folder / part[key]).resolve())
    for part, keys in parts:
        for key in keys:
            if isinstance(part.get(key), str):
                part[key] = (folder / part[key]).resolve()
            elif isinstance(part.get(key), list):
                part[key] = [(folder / each).resolve() for each in part[key]]
            elif isinstance(part.get(key), dict):
                part[key] = {name: (folder / each).resolve() for name, each in part[key].items()}


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a recipe that has not been checked yet; what is no part is left to the check."""
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged
