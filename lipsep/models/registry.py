"""The register of models: a name stands for a model class and a frozen configuration."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Callable
from typing import Any

from lipsep.errors import ModelError
from lipsep.models.base import SeparationModel

_MODELS: dict[str, tuple[type[SeparationModel], Callable[[], Any]]] = {}


def register_model(model_class: type[SeparationModel]) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register the decorated function, which returns a configuration of `model_class`, under its own name."""

    def register(make_config: Callable[[], Any]) -> Callable[[], Any]:
        name = make_config.__name__
        if name in _MODELS:
            raise ModelError(f"a model named '{name}' is already registered: give this one another name")
        _MODELS[name] = (model_class, make_config)
        return make_config

    return register


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell-style pattern, sorted: `list_models("*dolphin*")`."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def model_config(name: str, **overrides: Any) -> Any:
    """The frozen configuration of a registered model, with some fields replaced.

    Raises:
        ModelError: the name is unknown (close matches are listed), or an override is not a field of the configuration
            (the valid fields are listed) or has a value that the configuration refuses.
    """
    config = _entry(name)[1]()
    valid = [field.name for field in dataclasses.fields(config)]
    unknown = sorted(set(overrides) - set(valid))
    if unknown:
        raise ModelError(f"'{name}' has no setting {', '.join(map(repr, unknown))}; it has: {', '.join(valid)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
    return dataclasses.replace(config, **values)


def create_model(name: str, **overrides: Any) -> SeparationModel:
    """A freshly initialised model in training mode: `create_model("dolphin", n_stages=3)`.

    Raises:
        ModelError: see `model_config`.
    """
    config = model_config(name, **overrides)
    model = _entry(name)[0](config)
    model.name = name
    return model


def _entry(name: str) -> tuple[type[SeparationModel], Callable[[], Any]]:
    if name not in _MODELS:
        close = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.4)
        known = f"known models: {', '.join(list_models())}"
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else known
        raise ModelError(f"no model is named '{name}': {hint}")
    return _MODELS[name]
