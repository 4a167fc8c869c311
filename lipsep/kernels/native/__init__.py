"""Kernels in C++ for what is slow in PyTorch on a processor: compiled on first use, for this very processor.

They are an addition: each has a form in PyTorch beside it, which runs where there is no compiler, on GPUs, in other
precisions, while a model is traced or exported, and while somebody watches PyTorch's operators (as programs that count
them do). `LIPSEP_NATIVE=0` in the environment turns them off.

The library is kept in the user's cache folder (`$XDG_CACHE_HOME/lipsep`, else `~/.cache/lipsep`), under a name that
tells sources, compiler and processor, so that it is compiled once for each.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import threading
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from lipsep.errors import OutputError
from lipsep.kernels.exporting import is_exporting
from lipsep.system.outputs import whole_file

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
# No -ffast-math: it would let NaNs vanish, and the library would change how the whole process rounds.
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC"]
OPENMP = ["-fopenmp"]
COMPILER_PATIENCE_S = 300
MULTIPLE = 16
"""Kernels that work along channels take multiples of this: whole vectors on every processor."""


_LOCK = threading.Lock()


class _Unavailable(Exception):
    """Why there are no kernels, for people."""


def takes(*tensors: Tensor | None) -> bool:
    """Whether kernels may compute with these: 32-bit tensors on a processor, and nobody watches PyTorch's operators."""
    return (
        all(
            x is None or (type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype == torch.float32)
            for x in tensors
        )
        and not is_exporting()
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and _get_current_dispatch_mode() is None
        and _library()[0] is not None
    )


def takes_sequences(x: Tensor, *others: Tensor | None) -> bool:
    """As `takes`, for kernels that work along the channels of x (B, T, C)."""
    return x.shape[2] % MULTIPLE == 0 and takes(x, *others)


def run(name: str, *arguments: Tensor | int | float | None) -> None:
    """Call a kernel with as many threads as PyTorch uses.

    Args:
        name: of the C function.
        arguments: as the function has them, without the number of threads. Tensors must be contiguous.

    Raises:
        MemoryError: the kernel found no memory for its intermediate results.
    """
    given: list[ctypes._SimpleCData] = []
    for argument in arguments:
        if argument is None or isinstance(argument, Tensor):
            assert argument is None or argument.is_contiguous()
            given.append(ctypes.c_void_p(None if argument is None else argument.data_ptr()))
        else:
            given.append(ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int64(argument))
    library = _library()[0]
    if getattr(library, name)(*given, ctypes.c_int64(torch.get_num_threads())):
        raise MemoryError(f"{name} found no memory: close other programs, or give it shorter recordings")


def draw_seed(p: float) -> int:
    """A seed for the kernels' dropout from PyTorch's own generator: 0 to 2^63 - 1; 0 where nothing is dropped."""
    return int(torch.randint(2**63 - 1, ())) if p else 0


def status() -> str:
    """One line: that there are kernels, or why PyTorch works alone. Compiles nothing: nobody may have needed them."""
    return _library()[1] if _library.cache_info().currsize else "not needed"


@lru_cache(maxsize=1)
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None, and what `status` says of it."""
    with _LOCK:  # threads that come at once wait for one compiler
        try:
            return ctypes.CDLL(str(_compiled())), "compiled for this processor"
        except (_Unavailable, OutputError, OSError, RuntimeError) as error:  # RuntimeError: no home folder
            return None, f"PyTorch alone, which is slower: {error}"


def _compiled() -> Path:
    """The library's file, compiled now where that was not done before."""
    if os.environ.get("LIPSEP_NATIVE") == "0":
        raise _Unavailable("LIPSEP_NATIVE=0 is set")
    compiler = _compiler()
    sources = [path.read_bytes() for path in (*SOURCES, *HEADERS)]
    words = "\n".join([*compiler, *FLAGS, *OPENMP, platform.machine(), _processor()])
    digest = hashlib.sha256(b"\0".join([*sources, words.encode()])).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lipsep"
    path = folder / f"kernels-{digest}.so"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:  # another process may be doing the same
            _compile(compiler, part)
    return path


def _compiler() -> list[str]:
    """The compiler's command: $CXX, or what the system calls its C++ compiler."""
    if wanted := shlex.split(os.environ.get("CXX", "")):
        return wanted
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise _Unavailable("no C++ compiler was found; install one (apt install g++, or xcode-select --install)")


def _compile(compiler: list[str], made: Path) -> None:
    """Compile all sources, without threads where the compiler has no OpenMP."""
    for threads in (OPENMP, ["-Wno-unknown-pragmas"]):
        command = [*compiler, *FLAGS, *threads, *map(str, SOURCES), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILER_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise _Unavailable(f"{compiler[0]} took more than {COMPILER_PATIENCE_S} s to compile its kernels") from None
        except OSError as error:  # said here, or `whole_file` would take it for the disk's
            raise _Unavailable(f"{compiler[0]} cannot be run: {error.strerror}") from None
        if done.returncode == 0:
            return
    raise _Unavailable(f"{compiler[0]} could not compile its kernels: {_first_error(done.stderr)}")


def _first_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if "error" in line]
    return lines[0] if lines else "it did not say why"


def _processor() -> str:
    """What the processor can do: machines that share a home folder must not share what is compiled for one of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
