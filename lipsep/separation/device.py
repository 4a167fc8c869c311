"""The device a model runs on."""

from __future__ import annotations

import torch

from lipsep.errors import ModelError


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" takes CUDA where there is one, else the processor.

    Raises:
        ModelError: the name means nothing, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"device '{name}' is unknown: use auto, cpu, cuda, cuda:0 or mps") from None
    n_cuda = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= n_cuda:
        raise ModelError(f"device '{name}' asked for, but {n_cuda} CUDA devices are usable here: use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device 'mps' asked for, but this machine has none: use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ModelError(f"device '{name}' is not supported: use auto, cpu, cuda, cuda:0 or mps")
    return device


def peak_gpu_memory_mib(device: torch.device) -> float | None:
    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if device.type == "cuda" else None
