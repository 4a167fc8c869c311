"""Opening the corpora of a recipe: filmed, synthetic, split into training and validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lipsep.constants import Hook
from lipsep.data.clips.clips import TalkingClips, join
from lipsep.data.clips.stored import Sliced
from lipsep.data.corpora.layouts import LAYOUTS, find_sources
from lipsep.data.corpora.prepare import filmed_corpus, kept_at, noise_corpus, prepare_filmed, unfilmed_corpus
from lipsep.data.corpora.shards import is_prepared, load_shards, prepared_splits
from lipsep.data.mixtures.training import TRAINING, VALIDATION, FinishedClips, open_split
from lipsep.data.settings import DataPart, SyntheticPart
from lipsep.data.synthetic.babble import synthetic_corpus, with_foreign_mouths
from lipsep.errors import MediaError, ModelError
from lipsep.lips.recipes import LipRecipe

Clips = TalkingClips | FinishedClips


def prepare_clips(data: DataPart, lips: LipRecipe) -> tuple[Clips, Clips, TalkingClips | None, Sliced | None]:
    """Clips to train on and to validate on, unfilmed voices with made mouths, noises.

    Says so where a model of pixels will have to be shown drawn mouths.
    """
    with Console(stderr=True).status("preparing corpora") as status:

        def hook(step: str, completed: int, total: int | None) -> None:
            status.update(f"preparing corpora: {step} {completed}/{total}")

        if data.finished:
            training, validation = (FinishedClips(open_split(data.finished, part)) for part in (TRAINING, VALIDATION))
        else:
            training, validation = synthetic_split(data.synthetic) if data.synthetic else filmed_split(data, hook)
        unfilmed = _unfilmed(data, training, hook, held_out=False) if data.unfilmed else None
        noises = noise_corpus(data.noises, hook) if data.noises else None
    if lips.source == "pixels" and training.pictures is None:
        Console(stderr=True).print(
            f"note: these corpora hold mouths as points alone, so a model of pixels ({lips.name}) is trained on drawn "
            "mouths; `lipsep prepare --pictures` keeps the filmed ones",
            highlight=False,
        )
    return training, validation, unfilmed, noises


def prepare_held_out(data: DataPart, filmed: TalkingClips) -> TalkingClips:
    """Voices of the talkers that the recipe holds out; filmed: the clips to train on.

    Raises:
        ModelError: none of them is there.
    """
    return _unfilmed(data, filmed, None, held_out=True)


def _unfilmed(data: DataPart, filmed: TalkingClips, hook: Hook | None, held_out: bool) -> TalkingClips:
    clips = join([unfilmed_corpus(folder, filmed, data.prepared, hook) for folder in data.unfilmed])
    kept = clips.select(i for i, talker in enumerate(clips.talkers) if (talker in data.unfilmed_held_out) == held_out)
    if not len(kept):
        which = "is one of" if held_out else "is none but"
        raise ModelError(f"recipe: of {len(clips)} unfilmed clips, no talker {which} those of data.unfilmed_held_out")
    return kept


@dataclass(frozen=True)
class _Filmed:
    """A filmed corpus of a recipe.

    Attributes:
        layout, folder: where it lies, prepared or as it was published.
        held_out: talkers of it who are kept for the report.
    """

    layout: str
    folder: Path
    held_out: tuple[str, ...] = ()


def _filmed_corpora(data: DataPart) -> list[_Filmed]:
    return [_Filmed("folder", folder) for folder in data.filmed] + [
        _Filmed(layout, folder, data.filmed_held_out.get(layout, ())) for layout, folder in data.corpora.items()
    ]


def filmed_split(data: DataPart, hook: Hook) -> tuple[TalkingClips, TalkingClips]:
    """Training and validation clips of the recipe's filmed corpora, merged: of each by its own splits where it has
    them, else by the names that the recipe gives. Held-out talkers are in neither.

    All corpora are looked at before the first is prepared.

    Raises:
        MediaError: there is no such folder.
        ModelError: the recipe does not say what to validate on, or holds out talkers that there are not.
    """
    corpora = _filmed_corpora(data)
    for corpus in corpora:
        _check(corpus, data)
    parts = [_split_of(corpus, data, hook) for corpus in corpora]
    training, validation = parts[0] if len(parts) == 1 else map(join, zip(*parts, strict=True))
    return _enough(training, validation)


def held_out_talkers(data: DataPart) -> TalkingClips | None:
    """All clips of the recipe's `filmed_held_out`, whose corpora are prepared; None: it names nobody.

    Raises:
        ModelError: of one of them no clip could be used.
    """
    parts = []
    for corpus in (each for each in _filmed_corpora(data) if each.held_out):
        clips = filmed_corpus(corpus.folder, data.prepared, layout=corpus.layout)
        parts.append(clips.select(i for i, talker in enumerate(clips.talkers) if talker in corpus.held_out))
        if unseen := sorted(set(corpus.held_out) - set(parts[-1].talkers)):
            raise ModelError(
                f"recipe: no clip of {', '.join(unseen)} (data.filmed_held_out.{corpus.layout}) can be used"
            )
    return join(parts) if parts else None


def _check(corpus: _Filmed, data: DataPart) -> None:
    """Whether a corpus is there, can be prepared and split, and has its held-out talkers."""
    folder, where = (
        corpus.folder,
        f"data.corpora.{corpus.layout}" if corpus.folder not in data.filmed else "data.filmed",
    )
    kept = folder if data.prepared is None or is_prepared(folder) else kept_at(data.prepared, folder)
    if corpus.layout not in LAYOUTS:
        raise ModelError(f"recipe: data.corpora has no layout {corpus.layout}: choose of {', '.join(LAYOUTS)}")
    if is_prepared(kept):
        talkers, splits = _talkers_of(kept), set(prepared_splits(kept))
    elif not folder.is_dir():
        raise MediaError(
            f"recipe: there is no folder '{folder}' ({where}): `lipsep download` gets corpora that anybody may have, "
            f"`lipsep prepare CORPUS FOLDER -o {folder}` writes others"
        )
    elif data.prepared is None:
        raise ModelError(f"recipe: '{folder}' is not prepared: name a folder 'prepared' to keep what is found there")
    else:
        sources = find_sources(corpus.layout, folder)
        talkers, splits = {source.talker for source in sources}, {source.split for source in sources}
    if not {"train", "val"} <= splits and not data.filmed_validation_prefixes:
        raise ModelError(
            f"recipe: '{folder}' has no splits train and val: name 'filmed_validation_prefixes' of clips, and "
            "'filmed_test_prefixes' of those to leave alone"
        )
    if unknown := [talker for talker in corpus.held_out if talker not in talkers]:
        raise ModelError(
            f"recipe: '{folder}' has no talker {', '.join(unknown)} (data.filmed_held_out.{corpus.layout}); it has "
            f"{len(talkers)}, {', '.join(sorted(talkers)[:3])}, ..."
        )


def _talkers_of(prepared: Path) -> set[str]:
    return {talker for split in prepared_splits(prepared) for talker in load_shards(prepared, split).talkers}


def _split_of(corpus: _Filmed, data: DataPart, hook: Hook) -> tuple[TalkingClips, TalkingClips]:
    where = prepare_filmed(corpus.folder, data.prepared, hook, corpus.layout)
    splits = prepared_splits(where)
    if {"train", "val"} <= set(splits):
        training, validation = load_shards(where, "train"), load_shards(where, "val")
    else:
        clips = join([load_shards(where, split) for split in (["train"] if "train" in splits else splits)])
        training, validation = split_by_prefix(clips, data.filmed_test_prefixes, data.filmed_validation_prefixes)
    return _without(training, corpus.held_out), _without(validation, corpus.held_out)


def _without(clips: TalkingClips, talkers: tuple[str, ...]) -> TalkingClips:
    return clips.select(i for i, talker in enumerate(clips.talkers) if talker not in talkers)


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
    return clips.select(training), clips.select(validation)


def _enough(training: TalkingClips, validation: TalkingClips) -> tuple[TalkingClips, TalkingClips]:
    if len(training) < 2 or len(validation) < 2:
        raise ModelError(
            f"recipe: {len(training)} clips to train on and {len(validation)} to validate; needs 2 of each"
        )
    return training, validation
