"""One paper, one file. This package is the registry: importing it registers every model."""

from lipsep.models import (  # noqa: F401  (registers its models)
    av_convtasnet,
    av_mossformer2,
    av_tdanet,
    avlit,
    bin,
    ctcnet,
    dolphin,
    dolphin_laptop,
    iianet,
    rtfsnet,
    swiftnet,
    visualvoice,
    voices_first,
)
from lipsep.models.base import SeparationModel
from lipsep.models.keys import dolphin as dolphin_keys  # noqa: F401  (registers how its authors' weights load)
from lipsep.models.registry import create_model, list_models, model_config, register_model

__all__ = ["SeparationModel", "create_model", "list_models", "model_config", "register_model"]
