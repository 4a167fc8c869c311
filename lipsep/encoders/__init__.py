"""Video encoders: lip pictures in, one feature vector per video frame out. Importing this registers all of them."""

from lipsep.encoders.base import VideoEncoder, create_encoder, encoder_for, list_encoders, register_encoder

# isort: split
from lipsep.encoders import (  # noqa: F401  (they register their encoders)
    autoencoder,
    dp_lipcoder,
    mouth_opening,
    mouth_pixels,
    mouth_points,
    resnet18_3d,
    resnet18_temporal,
    shufflenet_tcn,
)

__all__ = ["VideoEncoder", "create_encoder", "encoder_for", "list_encoders", "register_encoder"]
