"""The private folders of visitors: made for one run, reached by an address nobody can guess, removed afterwards."""

from __future__ import annotations

import io
import re
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipsep.services.page.remix import Remix, remix

_SHOWN = re.compile(
    r"(original|residual|speaker_\d{1,4})\.wav|(speaker_\d{1,4}|tracks)\.(mp4|mkv)|overview\.png|report\.json|"
    r"who_speaks_when\.(rttm|txt|csv)"
)
_COPY_BYTES = 2**20


@dataclass
class Visit:
    """One run of one visitor."""

    key: str  # 192 random bits, the address of the results
    visitor: str
    session: str  # of the page that is open: a visitor may have several
    folder: Path
    upload: Path | None = None  # where what is separated lay
    stop: threading.Event = field(default_factory=threading.Event)
    last_used_s: float = field(default_factory=time.monotonic)


class Visits:
    """All runs whose files are still there.

    Args:
        root: an existing private folder.
        keep_s: how long files stay after they were last used.
    """

    def __init__(self, root: Path, keep_s: float) -> None:
        self._root, self._keep_s = root, keep_s
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def begin(self, visitor: str, session: str) -> Visit:
        """A new folder for this visitor's open page, whose earlier runs are stopped and removed."""
        self.end(visitor, session)
        self.sweep()
        key = secrets.token_urlsafe(24)
        visit = Visit(key, visitor, session, self._root / key)
        visit.folder.mkdir(mode=0o700)
        with self._lock:
            self._visits[key] = visit
        return visit

    def end(self, visitor: str, session: str) -> list[Path]:
        """Stop and remove all runs of a visitor's page; the uploads that they separated."""
        ended = self._of(visitor, session)
        self._remove(ended)
        return [visit.upload for visit in ended if visit.upload]

    def stop_session(self, visitor: str, session: str) -> None:
        """Stop what a visitor's page is doing."""
        for visit in self._of(visitor, session):
            visit.stop.set()

    def stop(self) -> None:
        """Stop every run."""
        for visit in self._all():
            visit.stop.set()

    def folders_of(self, visitor: str) -> list[Path]:
        """Where files of this visitor lie."""
        return [visit.folder for visit in self._all() if visit.visitor == visitor]

    def sweep(self) -> None:
        """Remove what nobody has used for long."""
        oldest_s = time.monotonic() - self._keep_s
        self._remove([visit for visit in self._all() if visit.last_used_s < oldest_s])

    def file(self, key: str, name: str) -> Path | None:
        """A file of results; None if there is no such visit or file, or the file is not for showing."""
        with self._lock:
            visit = self._visits.get(key)
        if visit is None or not _SHOWN.fullmatch(name):
            return None
        visit.last_used_s = time.monotonic()
        path = visit.folder / "results" / name
        return path if path.is_file() else None

    def zipped(self, key: str, names: Mapping[str, str]) -> Iterator[bytes] | None:
        """All results as one file, piece by piece; None if there is no such visit or it is not finished.

        Args:
            names: what to call people, by number, as visitors typed it.
        """
        if self.file(key, "report.json") is None:
            return None
        results = sorted((self._root / key / "results").iterdir())
        return _zipped([(path, _renamed(path.name, names)) for path in results if _SHOWN.fullmatch(path.name)])

    def remix(self, key: str, gains: Mapping[str, str]) -> Remix | None:
        """See `lipsep.services.page.remix`; None also if there is no such visit or it is not finished."""
        if self.file(key, "report.json") is None:
            return None
        return remix(self._root / key / "results", gains)

    def _of(self, visitor: str, session: str) -> list[Visit]:
        return [visit for visit in self._all() if (visit.visitor, visit.session) == (visitor, session)]

    def _all(self) -> list[Visit]:
        with self._lock:
            return list(self._visits.values())

    def _remove(self, visits: list[Visit]) -> None:
        for visit in visits:
            visit.stop.set()
            with self._lock:
                self._visits.pop(visit.key, None)
            shutil.rmtree(visit.folder, ignore_errors=True)


class _Pieces(io.RawIOBase):
    """What is written to it can be taken away piece by piece; it cannot seek, and `zipfile` knows what to do then."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _zipped(files: Sequence[tuple[Path, str]]) -> Iterator[bytes]:
    """A zip of (file, name in it), without a copy on the disk."""
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w", zipfile.ZIP_STORED) as archive:
        for path, name in files:
            with path.open("rb") as file, archive.open(zipfile.ZipInfo.from_file(path, name), "w") as entry:
                while block := file.read(_COPY_BYTES):
                    entry.write(block)
                    yield pieces.taken()
    yield pieces.taken()


def _renamed(file: str, names: Mapping[str, str]) -> str:
    """speaker_2.wav -> 2 Anna.wav, with only such signs of the name as every system takes in file names."""
    found = re.fullmatch(r"speaker_(\d+)(\..*)", file)
    name = re.sub(r"[^\w .-]", "", names.get(found[1], "")).strip(" .")[:60] if found else ""
    return f"{found[1]} {name}{found[2]}" if name else file
