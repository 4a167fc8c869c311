"""What PyTorch reads from the environment, once, when it starts."""

from __future__ import annotations

import os

SETTINGS = {
    # threads that wait for each other should sleep, not spin: with a second program on the same two cores, separating
    # 2 s took 56 s spinning and 2.7 s sleeping
    "OMP_WAIT_POLICY": "PASSIVE",
    # large tensors lie in huge pages (Linux), so that they are not mapped page by page, again and again
    "THP_MEM_ALLOC_ENABLE": "1",
}


def before_torch() -> None:
    """Settings for a process that is ours alone; to be called before torch is imported. What the user set stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
