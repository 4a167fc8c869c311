"""One paper, one file. This package is the registry: importing it registers every model."""

from lipsep.models import av_mossformer2, bin, dolphin, iianet, rtfsnet, swiftnet, visualvoice  # noqa: F401  (registers its models)
from lipsep.models.base import SeparationModel
from lipsep.models.registry import create_model, list_models, model_config, register_model

__all__ = ["SeparationModel", "create_model", "list_models", "model_config", "register_model"]
