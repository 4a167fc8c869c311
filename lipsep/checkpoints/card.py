"""What a checkpoint says of itself in `config.json`, believed as far as its weights bear it out.

Such files come from strangers. No setting is believed until it has the type and the range of its kind; then the model
is made of shapes alone (PyTorch's meta device), no larger than the weights at hand, and compared with them. Memory is
asked for after that.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipsep.checkpoints.catalogue import CONFIG
from lipsep.errors import ModelError, WeightsError
from lipsep.models import SeparationModel, create_model, model_config

RETIRED = {"n_src": 1, "input_level": None}
"""Settings that lipsep 0.1 wrote for every Dolphin and only our own still have, with the value that says nothing."""
_MOST, _TIMES = 1024, 16  # a whole number is at most this, or so many times what the registered model has
_LARGEST_FLOAT = 1e4
_LONGEST = 256  # signs of a text, entries of a list
_SPARE = 64  # parameters that a model may register and give up again while it is made


def described_model(card: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> SeparationModel:
    """A fresh model as `card` describes it, of the very shapes that `state` has.

    Raises:
        WeightsError: an entry is missing, or has a value that it cannot have (the sentence names it), or the weights
            are another model's.
    """
    path = folder / CONFIG
    for entry, kind in {"model": str, "config": dict, "lip_recipe": str, "keeps_level": bool}.items():
        if entry not in card:
            raise WeightsError(f"'{path}' lacks the entry '{entry}': the checkpoint is incomplete")
        if not isinstance(card[entry], kind):
            raise WeightsError(f"'{path}' has {_shown(card[entry])} as '{entry}': {kind.__name__} is needed")
    name, config = card["model"], card["config"]
    try:
        usual = model_config(name)
        known = {field.name for field in dataclasses.fields(usual)}
        retired = {key for key, value in RETIRED.items() if key not in known and config.get(key) == value}
        values = {key: _as_meant(value) for key, value in config.items() if key not in retired}
        _check_values(usual, values)
        if any(value != getattr(usual, key, None) for key, value in values.items()):
            # Sizes of the card's own. Registered ones need no such care, for which PyTorch loads its compiler: seconds.
            with torch.device("meta"), _no_larger_than(state):
                shapes = create_model(name, **values)
            check_weights(state, shapes, folder)
        model = create_model(name, **values)
    except WeightsError:
        raise
    except (ModelError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        if not isinstance(error, ModelError):  # which say themselves what is wrong
            changed = [f"{key}={_shown(value)}" for key, value in values.items() if value != getattr(usual, key)]
            reason += f"; unlike the registered '{name}' it has {', '.join(changed)[:300]}"
        raise WeightsError(f"'{path}' does not describe a model of this version: {reason}") from error
    model.lip_recipe, model.keeps_level = card["lip_recipe"], card["keeps_level"]
    model.metadata = {key: value for key, value in card.items() if key not in ("lipsep", "model", "config")}
    return model


def check_weights(state: Mapping[str, Tensor], model: SeparationModel, folder: Path) -> None:
    """Refuse weights that are not exactly those of `model`.

    Raises:
        WeightsError: keys are missing or unknown, a shape differs, or values are not finite.
    """
    own = model.state_dict()
    for what, keys in (("lack", own.keys() - state.keys()), ("have an unexpected", state.keys() - own.keys())):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise WeightsError(f"the weights in '{folder}' {what} key '{min(keys)}'{more}, for model '{model.name}'")
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            found, needed = tuple(tensor.shape), tuple(own[key].shape)
            raise WeightsError(f"the weights in '{folder}' have '{key}' of shape {found}; {needed} is needed")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"the weights in '{folder}' have NaN or infinite values in '{key}': do not use them")


def _check_values(usual: Any, values: Mapping[str, Any]) -> None:
    """Each setting against the type that it is declared with, and against what the registered model has."""
    hints = typing.get_type_hints(type(usual))
    for key, value in values.items():
        if key in hints:  # others are refused by name, when the model is made
            needed = _needed(hints[key], getattr(usual, key), value, key)
            if needed:
                raise ModelError(f"{key}={_shown(value)}: {needed} is needed")


def _needed(hint: Any, usual: Any, value: Any, key: str) -> str:
    """What a setting must be, where `value` is not; else nothing."""
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in kinds:
            return ""
        return _needed(next(kind for kind in kinds if kind is not type(None)), usual, value, key)
    if origin is tuple:
        if not isinstance(value, tuple) or not 1 <= len(value) <= _LONGEST:
            return f"a list of 1 to {_LONGEST} entries"
        usual = usual[0] if usual else None
        return next(filter(None, (_needed(kinds[0], usual, entry, key) for entry in value)), "")
    if hint is bool:
        return "" if isinstance(value, bool) else "true or false"
    if hint is str:
        return "" if isinstance(value, str) and len(value) <= _LONGEST and value.isprintable() else "a short text"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a number"
    if hint is int:
        least, most = (0 if usual == 0 else 1), max(_MOST, _TIMES * (usual or 0))
        return "" if isinstance(value, int) and least <= value <= most else f"a whole number from {least} to {most}"
    if "dropout" in key or "drop_path" in key:
        return "" if 0 <= value < 1 else "a share from 0 to less than 1"
    return "" if abs(value) <= _LARGEST_FLOAT and math.isfinite(value) else "a finite number"


@contextmanager
def _no_larger_than(state: Mapping[str, Tensor]) -> Iterator[None]:
    """While a model is made: no parameter larger than all weights together, and not many more of them."""
    n_numbers, n_left = sum(tensor.numel() for tensor in state.values()), 2 * len(state) + _SPARE
    maker = threading.get_ident()

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal n_left
        if threading.get_ident() != maker:
            return
        n_left -= 1
        if n_left < 0 or (parameter is not None and parameter.numel() > n_numbers):
            raise ModelError("its sizes make a model that is far larger than its weights")

    handle = nn.modules.module.register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()


def _as_meant(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON knows no tuples


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of many digits"
    return text if len(text) <= 80 else text[:77] + "..."
