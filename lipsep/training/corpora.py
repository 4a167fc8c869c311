"""From the recipe's part `data` to what the training loops are fed with."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, get_args

from lipsep.data.clips.clips import TalkingClips
from lipsep.data.corpora.opening import Clips, prepare_clips
from lipsep.data.corpora.prepare import noise_corpus
from lipsep.data.mixing.bin_pipeline import BinCorpus
from lipsep.data.mixing.co_separation import CoSeparationMixtures
from lipsep.data.mixing.mixing import MixingConfig, Mixtures, collate
from lipsep.data.mixing.mouth_augmentation import MouthConfig
from lipsep.data.mixtures.training import TRAINING, VALIDATION, FinishedTraining, open_split
from lipsep.data.settings import DataPart
from lipsep.errors import ModelError
from lipsep.lips.recipes import LipRecipe
from lipsep.training.feed import Feed
from lipsep.training.recipe import Recipe


def prepare_feed(recipe: Recipe, lips: LipRecipe, face_size: int | None = None) -> Feed:
    """The recipe's corpora as training and validation mixtures; prepares on disk what is not there yet.

    Args:
        face_size: pixels of the faces that the model needs; None: it needs none.

    Raises:
        ModelError: the corpora have no faces and the model needs some, or no pairs of mixtures and the loss does.
    """
    settings = recipe.training
    mixing = mixing_config(recipe.data)
    n_items = settings.steps_per_epoch * settings.accumulate * settings.batch_mixtures
    n_check, check_seed = settings.validation_mixtures, settings.seed + 1
    paired = settings.loss == "co_separation"
    if recipe.data.finished:
        if paired or face_size is not None:
            raise ModelError(
                f"recipe: '{recipe.data.finished}' has finished mixtures and mouths; {recipe.model.name} needs faces "
                "or pairs of mixtures: prepare the clips themselves with `lipsep prepare CORPUS ROOT --pictures`"
            )
        split = partial(open_split, recipe.data.finished)
        stretches = partial(FinishedTraining, recipe=lips, segment_s=mixing.segment_s, random_crop=mixing.random_crop)
        learn = stretches(split(TRAINING), n_items=n_items, seed=settings.seed, drawn=True)
        check = stretches(split(VALIDATION), n_items=n_check, seed=check_seed, drawn=False)
    else:
        training, validation, unfilmed, noises = prepare_clips(recipe.data, lips)
        if face_size is not None:
            _check_faces(recipe, training, validation, unfilmed)
        kind = CoSeparationMixtures if paired else Mixtures
        learn = kind(training, unfilmed, noises, mixing, lips, n_items, settings.seed, face_size=face_size)
        fixed = plain(mixing)
        held_out = noise_corpus(recipe.data.noises, split="val") if recipe.data.noises and fixed.noise else None
        check = Mixtures(validation, None, held_out, fixed, lips, n_check, seed=check_seed, face_size=face_size)
    return Feed(learn, check, settings.batch_mixtures, settings.workers, collate)


def _check_faces(recipe: Recipe, training: Clips, validation: Clips, unfilmed: TalkingClips | None) -> None:
    model, data = recipe.model.name, recipe.data
    if unfilmed is not None:
        raise ModelError(f"recipe: {model} needs a face for every voice: leave 'unfilmed' out")
    if training.faces is None or validation.faces is None:
        folders = " and ".join(f"'{folder}'" for folder in data.filmed) or "talkers made up"
        raise ModelError(
            f"recipe: {model} needs a picture of each talker's face, and clips of {folders} have none: prepare "
            "them into a new folder with `lipsep prepare --pictures`, or train a model of lips alone"
        )


def mixing_config(data: DataPart) -> MixingConfig:
    """The recipe's changes to how examples are drawn.

    Raises:
        ModelError: it changes what there is not.
    """
    values = dict(data.mixing)
    if values.get("mouths") is not None:
        values["mouths"] = _checked(MouthConfig, values["mouths"], "data.mixing.mouths")
    if (corpus := values.get("bin_pipeline")) and (corpus not in get_args(BinCorpus) or not data.noises):
        raise ModelError(
            f"recipe: data.mixing.bin_pipeline is '{corpus}': use {' or '.join(get_args(BinCorpus))}, and name 'noises'"
        )
    return _checked(MixingConfig, values, "data.mixing")


def plain(mixing: MixingConfig) -> MixingConfig:
    """How mixtures to validate on are drawn, of filmed clips as they are.

    Where talkers are distinct, as in the papers' lists, by the rules of training without what varies the pictures. Else
    by the hardest: pairs that begin alike, cut at the same moment, without noise.
    """
    if mixing.distinct_talkers:
        return dataclasses.replace(
            mixing, filmed_pairs=1.0, mouths=None, random_crop=False, contrast=0.0, dropped=0.0, occluded=0.0,
            hidden=0.0, target_absent=0.0,
        )  # fmt: skip
    return MixingConfig(
        segment_s=mixing.segment_s,
        speakers=mixing.speakers,
        filmed_pairs=1.0,
        alike=1.0,
        own_pace=1.0,
        aligned=1.0,
        crossed_pairs=0.0,
        noise=0.0,
        mouths=None,
        random_crop=False,
    )


def _checked(config_class: type, values: dict[str, Any], where: str) -> Any:
    known = {field.name for field in dataclasses.fields(config_class)}
    if unknown := set(values) - known:
        raise ModelError(f"recipe: {where} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    return config_class(**values)
