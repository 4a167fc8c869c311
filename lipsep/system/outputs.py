"""Results on disk: prepared in a hidden folder, shown under their final names only when all are complete."""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated

from pydantic import BaseModel, Field, FiniteFloat

from lipsep.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

REPORT = "report.json"  # written last: where it is, the work is finished
STAGING_PREFIX = ".unfinished-"
PARTIAL = ".partial"  # part of the name of a single file that is being written
STALE_AFTER_S = 6 * 3600  # an unfinished folder that nothing has touched for so long was left by a killed run
_LARGEST_REPORT = 2**26  # bytes; hours of video with many people make a few hundred kB
_OWNER = "owner"  # in an unfinished folder: the name of the machine, locked as long as the run lives
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_WRITE = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENOTDIR", "EEXIST", "ENAMETOOLONG")
    if hasattr(errno, name)
}


ResultName = Annotated[
    str,
    Field(
        pattern=r"^(artifacts/)?(speaker_\d{1,6}[._][^/\\]{1,200}|overview\.png|who_speaks_when\.(rttm|txt|csv)|timeline\.otio"
        r"|(residual|original|remix|tracks)\.(wav|flac|mp3|opus|mp4|mov|mkv))$"
    ),
]
"""What a report may list: nothing outside its folder, and nothing that a run would not write."""


class OutputFolder:
    """The folder of one run. Use as a context manager: `staging` is a private folder for work in progress.

    `publish` moves what is in `results` to the final names, `report.json` last. Without `publish`, also after an error
    or Ctrl-C, nothing is left behind, not even the folder itself if it was not there before.

    Raises:
        OutputError: the folder cannot be made or written to; told on entry, before any work is done.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._made: list[Path] = []
        self.staging: Path | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> OutputFolder:
        with writing_to(self.path):
            self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._remove_stale()
                self.staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self.path))
                self._lock = _hold(self.staging / _OWNER)
                self.results = self.staging / "results"
                self.results.mkdir()
            except BaseException:  # Ctrl-C too: `__exit__` is not called for what fails in here
                self._clear(failed=True)
                raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._clear(failed=kind is not None)

    def publish(self, report: dict) -> list[Path]:
        """Move every result to its final name, replacing what an earlier run left; `report.json` comes last."""
        with writing_to(self.path):
            text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
            (self.staging / REPORT).write_text(text, encoding="utf-8")
            earlier = self._earlier_results()
            (self.path / REPORT).unlink(missing_ok=True)
            results = sorted(p.relative_to(self.results) for p in self.results.rglob("*") if p.is_file())
            for path in earlier - {self.path / name for name in results}:
                path.unlink(missing_ok=True)
            for name in results:
                (self.path / name).parent.mkdir(exist_ok=True)
                os.replace(self.results / name, self.path / name)
            os.replace(self.staging / REPORT, self.path / REPORT)
        return [self.path / name for name in (*results, Path(REPORT))]

    def _earlier_results(self) -> set[Path]:
        """What an earlier run wrote here by its own report; never anything outside this folder."""
        try:
            report = finished_report(self.path) or {"files": []}
        except OutputError:  # somebody else's report, to be replaced
            return set()
        paths = {self.path / name for name in report["files"]}
        return {path for path in paths if path.resolve().is_relative_to(self.path.resolve())}  # links may lead away

    def _remove_stale(self) -> None:
        for folder in self.path.glob(STAGING_PREFIX + "*"):
            with suppress(FileNotFoundError):  # its run has just ended and is removing it
                touched = max(p.stat().st_mtime for p in (folder, *folder.rglob("*")))
                if _is_orphan(folder / _OWNER) or time.time() - touched > STALE_AFTER_S:
                    shutil.rmtree(folder, ignore_errors=True)

    def _clear(self, failed: bool) -> None:
        if self._lock is not None:
            self._lock.close()
        if self.staging is not None:
            shutil.rmtree(self.staging, ignore_errors=True)
        for folder in self._made if failed else ():
            try:
                folder.rmdir()
            except OSError:  # somebody else has put a file there, or it was never made
                return


class PrivateFolder:
    """A temporary folder that only this user may look into, for as long as a service runs.

    What services that were killed have left under the same prefix is removed first.

    Raises:
        OutputError: it cannot be made.
    """

    def __init__(self, prefix: str) -> None:
        place = Path(tempfile.gettempdir())
        with writing_to(place):
            for left in place.glob(f"{prefix}*"):
                if not left.is_symlink() and _is_own(left) and _is_orphan(left / _OWNER):
                    shutil.rmtree(left, ignore_errors=True)
            self.path = Path(tempfile.mkdtemp(prefix=prefix))
            self._lock = _hold(self.path / _OWNER)

    def remove(self) -> None:
        """With everything in it; it may be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _is_own(path: Path) -> bool:
    with suppress(OSError):
        return not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()
    return False


def _hold(path: Path) -> IO[str]:
    """Write this machine's name and lock the file until it is closed, or this process ends in whatever way."""
    file = path.open("w", encoding="utf-8")
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    file.write(platform.node())
    file.flush()
    return file


def _is_orphan(path: Path) -> bool:
    """Whether the run that held this file has ended; told for runs of this machine only, where the system can tell."""
    if fcntl is None or not path.exists() or path.read_text(encoding="utf-8") != platform.node():
        return False
    with path.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep other processes out that would write to this folder the same way, where the system can tell.

    Raises:
        OutputError: another one is in.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"another run is writing to '{folder}': wait for its end, or choose another folder") from None
    else:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`, with its suffix, to write to. Where the block ends well the file appears as `path`,
    complete, in place of any earlier one; after an error or Ctrl-C an earlier one stays, and nothing else is left.

    Raises:
        OutputError: the disk refuses.
    """
    part = path.with_name(f".{secrets.token_hex(4)}{PARTIAL}{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        remedy = "free some space" if error.errno in _DISK_FULL else "check that the folder exists and its rights"
        reason = os.strerror(error.errno) if error.errno else error
        raise OutputError(f"'{path}' cannot be written: {reason}; {remedy}, or choose another folder.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


class _Input(BaseModel):
    name: str
    signature: str
    duration_s: FiniteFloat = Field(ge=0)


class _Settings(BaseModel):
    model: str


class _Track(BaseModel):
    person: int = Field(ge=1)
    files: list[ResultName]


class _Seconds(BaseModel):
    total: FiniteFloat = Field(ge=0)


class _Report(BaseModel):
    """What is read back of a report; it holds more."""

    lipsep: str
    input: _Input
    settings: _Settings
    tracks: list[_Track]
    seconds: _Seconds
    warnings: list[str]
    files: list[ResultName]


def finished_report(folder: Path) -> dict | None:
    """The report of finished work in `folder`; None if there is none, or if files that it lists are gone.

    Raises:
        OutputError: there is a report.json that something else has written.
    """
    path = folder / REPORT
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST_REPORT else None
        names = _Report.model_validate(report, strict=True).files
    except (OSError, ValueError, RecursionError) as error:  # among them pydantic's
        raise OutputError(
            f"'{path}' was not written by lipsep: choose another folder, or --overwrite to replace it"
        ) from error
    return report if all((folder / name).is_file() for name in names) else None


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn failures of the disk under `folder` into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        remedy = "free some space" if error.errno in _DISK_FULL else "check its rights"
        reason = os.strerror(error.errno)
        raise OutputError(f"cannot write to '{folder}': {reason}; {remedy} or choose another folder with -o") from error
