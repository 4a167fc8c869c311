"""Errors for people: each message says what was found, what was needed and what to do next, in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires


class LipsepError(Exception):
    """Base of every error that lipsep raises on purpose; the command line prints it as one line and exits with 1."""


class MediaError(LipsepError):
    """A file cannot be read, decoded or written as audio or video."""


class FaceError(LipsepError):
    """Nobody usable is visible, or the request about faces cannot be met."""


class ModelError(LipsepError):
    """Unknown model, unknown configuration key, or inputs that a model cannot take."""


class WeightsError(ModelError):
    """A weight file is missing, damaged, unsafe, or belongs to another model."""


class OptionError(LipsepError):
    """An option that there is not, or a value that means nothing to it."""


class DownloadError(LipsepError):
    """What was to be fetched cannot be had, or is not what was announced."""


class OutputError(LipsepError):
    """A result cannot be written: the folder is read-only, the disk is full, or finished work would be lost."""


def plain_reason(error: BaseException) -> str | None:
    """What to tell people about an error that is nobody's defect: ours, no memory, a lost GPU. None: unexpected."""
    if isinstance(error, LipsepError):
        return str(error)
    no_room_for_onednn = isinstance(error, RuntimeError) and "could not create a primitive" in str(error)
    if isinstance(error, MemoryError) or no_room_for_onednn:
        return "out of memory: close other programs, use a smaller model, or fewer --jobs; nothing finished is lost"
    if type(error).__name__ == "AcceleratorError":  # torch's; torch is not imported for this
        return (
            f"the graphics processor failed ({str(error).splitlines()[0]}): run the same command again, with "
            "--device cpu if it stays away; nothing finished is lost"
        )
    return None


def without_flags(message: str) -> str:
    """A message for people who have no command line before them: clauses that name its flags are left out."""
    clauses = re.split(r"(?<=[;,:]) ", message)
    kept = " ".join(clause for clause in clauses if not re.search(r"(^|[ '(])--?[a-z]", clause))
    return kept.rstrip(";,: ") or "this cannot be separated as it is"


@contextmanager
def needs_extra(what: str, extra: str = "train") -> Iterator[None]:
    """Say which optional part of lipsep is missing, where a package that `what` needs is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lipsep"):
            raise
        raise ModelError(f"{what} needs the package '{error.name}': run  {install_line(extra)}") from error


def install_line(extra: str) -> str:
    """The command that installs an optional part of lipsep, package by package, so that it works wherever lipsep itself
    came from: an index, a repository or a wheel."""
    try:
        declared = requires("lipsep") or []
    except PackageNotFoundError:  # run from a source tree that is not installed
        declared = []
    own = (line.partition(";") for line in declared)
    names = [f"'{name.strip()}'" for name, _, marker in own if re.search(rf"extra == ['\"]{extra}['\"]", marker)]
    return f"pip install {' '.join(names)}" if names else f"pip install '.[{extra}]'  in the folder of lipsep's source"
