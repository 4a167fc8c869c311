"""Weights as the authors of a model release them: which of their keys is which of ours, and a strict conversion.

A model's file registers the files that its authors release and how their keys relate to ours:

    register_released("ctcnet", ReleasedFile("separator", separator_key), ReleasedFile("video encoder", lip_key))

and `released_model("ctcnet", states)` then makes the model of their state dicts. Nothing is guessed: each key must be
there, known and of the right shape.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lipsep.errors import WeightsError
from lipsep.models.base import SeparationModel
from lipsep.models.registry import create_model, model_config

Rules = tuple[tuple[str, str], ...]
"""(pattern, replacement) from our names to those of the authors."""


def renamed(name: str, rules: Rules) -> str:
    """`name` after all `rules` in their order, each from the start of the name."""
    for ours, theirs in rules:
        name = re.sub(f"^{ours}", theirs, name)
    return name


def renamed_once(name: str, rules: Rules) -> str:
    """`name` after the first of the `rules` that fits whole parts of its beginning, between dots."""
    for ours, theirs in rules:
        name, changed = re.subn(f"^{ours}(?=\\.|$)", theirs, name)
        if changed:
            break
    return name


@dataclass(frozen=True)
class ReleasedFile:
    """One state dict that the authors release.

    Args:
        content: what it holds, for messages: "separator", "video encoder".
        their_key: one of our state-dict keys -> their key, or None where this file does not hold it. A prefix that all
            of their keys share ("module.", "audio_model.") is found by itself and left out here.
        ignored: shell-style patterns of their keys that hold nothing to load, such as constant windows.
    """

    content: str
    their_key: Callable[[str], str | None]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Released:
    files: tuple[ReleasedFile, ...]
    settings: Callable[[Mapping[str, Tensor]], dict[str, Any]] | None
    model: str


_RELEASED: dict[str, _Released] = {}
_REFUSED: dict[str, str] = {}


def register_released(
    name: str,
    *files: ReleasedFile,
    settings: Callable[[Mapping[str, Tensor]], dict[str, Any]] | None = None,
    model: str | None = None,
) -> None:
    """Say how the authors' weights of a registered model load.

    Args:
        name: the model's registered name, or one that says what the weights do not.
        files: all state dicts that together make the model; they may also come merged, each under a prefix.
        settings: from their keys and tensors to configuration overrides, where released sizes vary (such as `n_src`).
        model: the model's registered name, where `name` is another.
    """
    _RELEASED[name] = _Released(files, settings, model or name)


def refuse_released(name: str, reason: str) -> None:
    """Say why the authors' weights of a registered model do not load by its name, and by which they do."""
    _REFUSED[name] = reason


def list_released() -> list[str]:
    """Names of the models whose authors' weights can be loaded, sorted."""
    return sorted(_RELEASED)


def within(prefix: str, their_key: Callable[[str], str]) -> Callable[[str], str | None]:
    """`their_key` of a submodule, for keys of the model: None for those that do not begin with `prefix`."""
    return lambda name: their_key(name.removeprefix(prefix)) if name.startswith(prefix) else None


def released_model(name: str, states: Sequence[Mapping[str, Tensor]]) -> SeparationModel:
    """The model `name` with the authors' weights.

    Args:
        states: the state dicts of all files that they release for it, in any order.

    Raises:
        ModelError: no model has this name.
        WeightsError: no conversion is known for it, the weights do not say all, or a key is missing, unknown, or of
            another shape.
    """
    if name in _REFUSED:
        raise WeightsError(_REFUSED[name])
    if name not in _RELEASED:
        model_config(name)  # where no model has this name, say so
        raise WeightsError(f"no released weights are known for '{name}', only for: {', '.join(list_released())}")
    known = _RELEASED[name]
    merged = {key: tensor for state in states for key, tensor in state.items()}
    model = create_model(known.model, **(known.settings(merged) if known.settings else {}))
    model.load_state_dict(convert_released(model, known.files, states))
    return model


def convert_released(
    model: SeparationModel, files: Sequence[ReleasedFile], states: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Their tensors under our names and in our shapes, ready for `model.load_state_dict`.

    Shapes agree once dimensions of size 1 are left out: pointwise convolutions are linear maps here.

    Raises:
        WeightsError: a key is missing, unknown, or of another shape; the message names it.
    """
    own = model.state_dict()
    left = [dict(state) for state in states]
    converted = {}
    for file in files:
        expected = {theirs: ours for ours in own if (theirs := file.their_key(ours)) is not None}
        state, prefix = _best_match(left, expected)
        if state is None:
            raise WeightsError(
                f"none of the given files holds the {file.content} of {model.name}: "
                f"its authors released {' and '.join(f.content for f in files)}"
            )
        missing = [key for key in expected if prefix + key not in state]
        if missing:
            raise WeightsError(_wrong_keys("lack", missing, model.name))
        for theirs, ours in expected.items():
            converted[ours] = _reshaped(theirs, state.pop(prefix + theirs), own[ours])
        for key in [key for key in state if key.startswith(prefix)]:
            if any(fnmatch.fnmatchcase(key.removeprefix(prefix), pattern) for pattern in file.ignored):
                del state[key]
    if unexpected := [key for state in left for key in state]:
        raise WeightsError(_wrong_keys("have an unexpected", unexpected, model.name))
    return converted


def _best_match(states: list[dict[str, Tensor]], expected: Mapping[str, str]) -> tuple[dict[str, Tensor] | None, str]:
    """The state dict, and the prefix of its keys, that hold most of the expected keys."""
    best, most = (None, ""), 0
    for state in states:
        starts = [(key, at) for key in state for at in (0, *(dot.end() for dot in re.finditer(r"\.", key)))]
        prefixes = Counter(key[:at] for key, at in starts if key[at:] in expected)
        for prefix, n_found in sorted(prefixes.items(), key=lambda item: len(item[0])):
            if n_found > most:
                best, most = (state, prefix), n_found
    return best


def _reshaped(key: str, found: Tensor, wanted: Tensor) -> Tensor:
    if [n for n in wanted.shape if n != 1] != [n for n in found.shape if n != 1]:
        raise WeightsError(
            f"the released weights have '{key}' of shape {tuple(found.shape)}; {tuple(wanted.shape)} is needed"
        )
    return found.reshape(wanted.shape)


def _wrong_keys(what: str, keys: list[str], name: str) -> str:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"the released weights {what} key '{min(keys)}'{more}: this is another version of {name}, or a damaged file"
