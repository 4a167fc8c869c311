"""Separate the voices in a video by watching lips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lipsep.version import __version__

if TYPE_CHECKING:
    from lipsep.checkpoints.folder import load_model
    from lipsep.models import create_model, list_models
    from lipsep.separator import Separator

__all__ = ["Separator", "__version__", "create_model", "list_models", "load_model"]
_HOMES = {
    "Separator": "lipsep.separator",
    "create_model": "lipsep.models",
    "list_models": "lipsep.models",
    "load_model": "lipsep.checkpoints.folder",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import lipsep` and `lipsep --help` stay quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lipsep' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
