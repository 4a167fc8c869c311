"""How a process that is ours alone starts PyTorch, and keeps memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

SETTINGS = {
    # threads that wait for each other should sleep, not spin: with a second program on the same two cores, separating
    # 2 s took 56 s spinning and 2.7 s sleeping
    "OMP_WAIT_POLICY": "PASSIVE",
    # large tensors lie in huge pages (Linux), so that they are not mapped page by page, again and again
    "THP_MEM_ALLOC_ENABLE": "1",
}


FROM_THE_HEAP_BYTES, KEPT_BYTES = 32 * 2**20, 512 * 2**20
"""The largest tensors whose memory is used again, and how much of it a process keeps at most when all are gone."""


def before_torch() -> None:
    """Settings for a process that is ours alone; to be called before torch is imported. What the user set stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let this process use the memory of large tensors again (Linux with glibc).

    Otherwise it is given back and found again, page by page and filled with zeros, for each tensor: multiplying a
    million numbers then takes 0.8 ms instead of 0.09.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(-3, FROM_THE_HEAP_BYTES)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, KEPT_BYTES)  # M_TRIM_THRESHOLD


class Stopped(BaseException):
    """Ctrl-C or a request to end: unwinds everything, so that temporary files go. (typer would swallow the usual one.)

    Libraries in C sometimes lose an exception that a signal throws into them, or make another one of it; therefore
    the number of the signal is kept, and looked at again at every step of progress and at the end.
    """

    signal_number: int | None = None
    afterwards = "what was unfinished is removed, the same command starts it again"

    @classmethod
    def on_signal(cls, number: int, _: object) -> None:
        cls.signal_number = number
        signal.signal(number, signal.SIG_DFL)  # asked twice, the process ends at once
        raise cls

    @classmethod
    def check(cls) -> None:
        if cls.signal_number is not None:
            raise cls
