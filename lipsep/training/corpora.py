"""From the recipe's part `data` to what the training loops are fed with."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, get_args

from rich.console import Console

from lipsep.data.clips.clips import TalkingClips
from lipsep.data.clips.stored import Sliced
from lipsep.data.corpora.prepare import Hook, filmed_corpus, noise_corpus, unfilmed_corpus
from lipsep.data.corpora.shards import is_prepared, load_shards, prepared_splits
from lipsep.data.mixing.bin_pipeline import BinCorpus
from lipsep.data.mixing.co_separation import CoSeparationMixtures
from lipsep.data.mixing.mixing import MixingConfig, Mixtures, collate
from lipsep.data.mixing.mouth_augmentation import MouthConfig
from lipsep.data.mixtures.training import TRAINING, VALIDATION, PublishedClips, PublishedTraining, open_split
from lipsep.data.synthetic.babble import synthetic_corpus, with_foreign_mouths
from lipsep.errors import MediaError, ModelError
from lipsep.lips.reading import LipRecipe
from lipsep.training.feed import Feed
from lipsep.training.recipe import DataPart, Recipe, SyntheticPart

Clips = TalkingClips | PublishedClips


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
    if recipe.data.published:
        if paired or face_size is not None:
            raise ModelError(
                f"recipe: '{recipe.data.published}' has finished mixtures and mouths; {recipe.model.name} needs faces "
                "or pairs of mixtures: prepare the clips themselves with `lipsep prepare CORPUS ROOT --pictures`"
            )
        split = partial(open_split, recipe.data.published)
        stretches = partial(PublishedTraining, recipe=lips, segment_s=mixing.segment_s, random_crop=mixing.random_crop)
        learn = stretches(split(TRAINING), n_items=n_items, seed=settings.seed, drawn=True)
        check = stretches(split(VALIDATION), n_items=n_check, seed=check_seed, drawn=False)
    else:
        training, validation, unfilmed, noises = prepare_clips(recipe.data, lips)
        if face_size is not None:
            _check_faces(recipe, training, validation, unfilmed)
        kind = CoSeparationMixtures if paired else Mixtures
        learn = kind(training, unfilmed, noises, mixing, lips, n_items, settings.seed, face_size=face_size)
        check = Mixtures(validation, None, None, plain(mixing), lips, n_check, seed=check_seed, face_size=face_size)
    return Feed(learn, check, settings.batch_mixtures, settings.workers, collate)


def prepare_clips(data: DataPart, lips: LipRecipe) -> tuple[Clips, Clips, TalkingClips | None, Sliced | None]:
    """Clips to train on and to validate on, unfilmed voices with made mouths, noises.

    Says so where a model of pixels will have to be shown drawn mouths.
    """
    with Console(stderr=True).status("preparing corpora") as status:

        def hook(step: str, completed: int, total: int | None) -> None:
            status.update(f"preparing corpora: {step} {completed}/{total}")

        if data.published:
            training, validation = (PublishedClips(open_split(data.published, part)) for part in (TRAINING, VALIDATION))
        else:
            training, validation = synthetic_split(data.synthetic) if data.synthetic else filmed_split(data, hook)
        unfilmed = unfilmed_corpus(data.unfilmed, training, data.prepared, hook) if data.unfilmed else None
        noises = noise_corpus(data.noises, hook) if data.noises else None
    if lips.source == "pixels" and training.pictures is None:
        Console(stderr=True).print(
            f"note: these corpora hold mouths as points alone, so a model of pixels ({lips.name}) is trained on drawn "
            "mouths; `lipsep prepare --pictures` keeps the filmed ones",
            highlight=False,
        )
    return training, validation, unfilmed, noises


def _check_faces(recipe: Recipe, training: Clips, validation: Clips, unfilmed: TalkingClips | None) -> None:
    model, data = recipe.model.name, recipe.data
    if unfilmed is not None:
        raise ModelError(f"recipe: {model} needs a face for every voice: leave 'unfilmed' out")
    if training.faces is None or validation.faces is None:
        raise ModelError(
            f"recipe: {model} needs a picture of each talker's face, and clips of '{data.filmed}' have none: prepare "
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
    """Two filmed clips as they are, for validation."""
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


def filmed_split(data: DataPart, hook: Hook) -> tuple[TalkingClips, TalkingClips]:
    """Training and validation clips of the recipe's filmed corpus: by its own splits where `lipsep prepare` found any,
    else by the names that the recipe gives.

    Raises:
        MediaError: there is no such folder.
        ModelError: the recipe does not say what to validate on.
    """
    if data.prepared is None and not data.filmed.is_dir():
        raise MediaError(
            f"recipe: there is no folder '{data.filmed}' (data.filmed): `lipsep prepare CORPUS FOLDER -o "
            f"{data.filmed}` writes it"
        )
    splits = prepared_splits(data.filmed) if is_prepared(data.filmed) else []
    if {"train", "val"} <= set(splits):
        return _enough(load_shards(data.filmed, "train"), load_shards(data.filmed, "val"))
    if not data.filmed_validation_prefixes:
        raise ModelError(
            f"recipe: '{data.filmed}' has no splits train and val: name 'filmed_validation_prefixes' of clips, and "
            "'filmed_test_prefixes' of those to leave alone"
        )
    if "train" in splits:
        return split_by_prefix(
            load_shards(data.filmed, "train"), data.filmed_test_prefixes, data.filmed_validation_prefixes
        )
    if not splits and data.prepared is None:
        raise ModelError(
            f"recipe: '{data.filmed}' is not prepared: name a folder 'prepared' to keep what is found there"
        )
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
    return _enough(clips.select(training), clips.select(validation))


def _enough(training: TalkingClips, validation: TalkingClips) -> tuple[TalkingClips, TalkingClips]:
    if len(training) < 2 or len(validation) < 2:
        raise ModelError(
            f"recipe: {len(training)} clips to train on and {len(validation)} to validate; needs 2 of each"
        )
    return training, validation
