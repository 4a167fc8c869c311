"""Kernels in C++ for what is slow in PyTorch on a processor: compiled on first use, for this very processor.

They are an addition: each has a form in PyTorch beside it, which runs where there is no compiler, on GPUs, in other
precisions, while a model is traced or exported, and while somebody watches PyTorch's operators (as programs that count
them do). `LIPSEP_NATIVE=0` in the environment turns them off.

The library is kept in the user's cache folder (on Linux `$XDG_CACHE_HOME/lipsep`, else `~/.cache/lipsep`), under a
name that tells sources, compiler and processor, so that it is compiled once for each. It is code: a folder into which
anybody else may write is not used.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from platformdirs import user_cache_path
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
    """Whether kernels may compute with these: 32-bit tensors on a processor that are not empty (kernels begin with a
    first element), and nobody watches PyTorch's operators."""
    return (
        all(
            x is None
            or (type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel())
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
            return _loaded(), "compiled for this processor"
        except (_Unavailable, OutputError, OSError, RuntimeError) as error:  # RuntimeError: no home folder
            return None, f"PyTorch alone, which is slower: {error}"


def _loaded() -> ctypes.CDLL:
    """The library, compiled now where that was not done before, or where what lies there is damaged or foreign."""
    if os.environ.get("LIPSEP_NATIVE") == "0":
        raise _Unavailable("LIPSEP_NATIVE=0 is set")
    compiler = _compiler()
    sources = [path.read_bytes() for path in (*SOURCES, *HEADERS)]
    words = "\n".join([*compiler, *FLAGS, *OPENMP, platform.machine(), _processor()])
    digest = hashlib.sha256(b"\0".join([*sources, words.encode()])).hexdigest()[:16]
    path = _cache_folder() / f"kernels-{digest}.so"
    if path.is_file() and _is_ours_alone(path):
        with suppress(OSError, AttributeError):  # it is not whole, or this system cannot give one back
            library = ctypes.CDLL(str(path))
            if hasattr(library, "attend") and hasattr(library, "conv_norm"):
                return library
            _ctypes.dlclose(library._handle)  # somebody else's: without this the system gives it back by its name
    with whole_file(path) as part:  # another process may be doing the same
        _compile(compiler, part)
    return ctypes.CDLL(str(path))


def _cache_folder() -> Path:
    """Where the library is kept: a folder of this user, in which nobody else can put a library of theirs.

    Raises:
        _Unavailable: there is none.
    """
    folder = user_cache_path("lipsep", appauthor=False)
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = folder.parent.resolve() / folder.name
    folder.mkdir(exist_ok=True, mode=0o700)
    if not hasattr(os, "getuid"):  # Windows: the user's profile is the user's own
        return folder
    for place in (folder, *folder.parents):
        if not _is_ours_alone(place, sticky_is_safe=place != folder):
            raise _Unavailable(f"others may write to '{place}', where compiled code would be kept: chmod go-w it")
    return folder


def _is_ours_alone(path: Path, sticky_is_safe: bool = False) -> bool:
    """Whether nobody but this user and the administrator can change what lies at `path`."""
    if not hasattr(os, "getuid"):
        return True
    found = path.lstat()
    others = found.st_mode & (0o002 if _is_private(found.st_gid) else 0o022)
    closed = not others or (sticky_is_safe and bool(found.st_mode & stat.S_ISVTX))  # as in /tmp
    return closed and found.st_uid in (0, os.getuid()) and not stat.S_ISLNK(found.st_mode)


def _is_private(gid: int) -> bool:
    """Whether a group is this user alone, as many systems make one for each user."""
    import grp
    import pwd

    try:
        name, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}


def _compiler() -> list[str]:
    """The compiler's command: $CXX, or what the system calls its C++ compiler."""
    try:
        wanted = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise _Unavailable(f"CXX cannot be read as a command ({error})") from error
    if wanted:
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
