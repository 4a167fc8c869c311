"""Corpora that anybody may download: where they lie, under which licence, and how they come here.

GRID and Lombard GRID are records of Zenodo: ``/api/records/ID`` names files, sizes, MD5 and addresses. CREMA-D is a
repository whose clips lie behind Git LFS: the archive of the repository holds a pointer (SHA-256 and size) in place of
each clip, and the LFS batch API (git-lfs, docs/api/batch.md) turns pointers into addresses, a hundred at a time. That
is the documented way, alike on every server. The authors' own server answers only while their budget lasts, so their
mirror is asked next; whoever sends a clip, it is checked against the authors' pointer.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Annotated, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError

from lipsep.constants import Hook
from lipsep.errors import DownloadError, OptionError, OutputError
from lipsep.system.fetching import RemoteFile, ask, fetch, partial
from lipsep.system.outputs import only_run, writing_to
from lipsep.system.unpacking import unpack

ZENODO = "https://zenodo.org"
CREMA_D_ARCHIVE = "https://codeload.github.com/CheyneyComputerScience/CREMA-D/tar.gz/refs/heads/master"
CREMA_D_LFS = (
    "https://github.com/CheyneyComputerScience/CREMA-D.git/info/lfs",
    "https://gitlab.com/cs-cooper-lab/crema-d-mirror.git/info/lfs",
)
CONNECTIONS = 4  # at once: Zenodo gives each a few hundred kB/s
GRACE_S = 2.0  # for threads to end by themselves
LARGEST_POINTER = 1024  # bytes, by the specification of Git LFS
LARGEST_REPOSITORY = 2**30  # bytes of an unpacked archive with pointers
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")
_LFS_JSON = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json"}

Reply = TypeVar("Reply", bound=BaseModel)


# --- Records of Zenodo -----------------------------------------------------------------------------------------------


class _Links(BaseModel):
    self: str


class _File(BaseModel):
    key: str
    size: Annotated[int, Field(ge=0)]
    checksum: Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]
    links: _Links


class _Licence(BaseModel):
    id: str


class _Metadata(BaseModel):
    license: _Licence | None = None


class _Record(BaseModel):
    metadata: _Metadata
    files: list[_File]


@dataclass(frozen=True)
class ZenodoRecord:
    """Files of a record.

    Attributes:
        number: of the record.
        licence: the identifier that the record states.
        wanted: pattern of the files that are of use here.
    """

    number: int
    licence: str
    wanted: str
    at_once: int = 1

    def files(self, client: httpx.Client) -> list[RemoteFile]:
        url = f"{ZENODO}/api/records/{self.number}"
        record = _parsed(_Record, ask(client, "GET", url), url)
        stated = record.metadata.license
        if stated is not None and stated.id != self.licence:
            raise DownloadError(f"{ZENODO}/records/{self.number} is under '{stated.id}' now, not '{self.licence}'")
        return [
            RemoteFile(file.key, file.links.self, file.size, file.checksum)
            for file in record.files
            if re.fullmatch(self.wanted, file.key)
        ]

    def addressed(self, client: httpx.Client, files: Sequence[RemoteFile]) -> Sequence[RemoteFile]:
        return files


# --- Repositories with Git LFS ---------------------------------------------------------------------------------------


class _Action(BaseModel):
    href: str
    header: dict[str, str] = Field(default_factory=dict)


class _Actions(BaseModel):
    download: _Action


class _Refusal(BaseModel):
    message: str


class _Object(BaseModel):
    oid: str
    actions: _Actions | None = None
    error: _Refusal | None = None


class _Batch(BaseModel):
    objects: list[_Object]


@dataclass(frozen=True)
class LfsRepository:
    """Files that a repository keeps by Git LFS.

    Attributes:
        wanted: pattern of their paths.
    """

    wanted: str
    at_once: int = 100

    def files(self, client: httpx.Client) -> list[RemoteFile]:
        """Of the pointers in the repository's archive; they have no address yet."""
        archive, found, n_bytes = ask(client, "GET", CREMA_D_ARCHIVE), [], 0
        try:
            with tarfile.open(fileobj=io.BytesIO(archive), mode="r|gz") as opened:
                for member in opened:
                    n_bytes += member.size
                    if n_bytes > LARGEST_REPOSITORY:
                        raise DownloadError(f"{CREMA_D_ARCHIVE} is no repository of pointers: it is too large")
                    path = member.name.partition("/")[2]  # behind the folder of the archive itself
                    if not re.fullmatch(self.wanted, path) or not member.isfile():
                        continue
                    content = opened.extractfile(member)
                    pointer = _POINTER.fullmatch(content.read(LARGEST_POINTER)) if content is not None else None
                    if pointer is None:
                        raise DownloadError(f"{CREMA_D_ARCHIVE} has no Git LFS pointer in place of '{path}'")
                    found.append(RemoteFile(path, "", int(pointer[2]), f"sha256:{pointer[1].decode()}"))
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise DownloadError(f"{CREMA_D_ARCHIVE} cannot be read as an archive: {error}") from error
        return found

    def addressed(self, client: httpx.Client, files: Sequence[RemoteFile]) -> Sequence[RemoteFile]:
        """
        Raises:
            DownloadError: no server gives addresses; the message says why each does not.
        """
        objects = [{"oid": file.checksum.removeprefix("sha256:"), "size": file.size} for file in files]
        request = json.dumps({"operation": "download", "transfers": ["basic"], "objects": objects})
        reasons = []
        for server in CREMA_D_LFS:
            url = f"{server}/objects/batch"
            try:
                batch = _parsed(_Batch, ask(client, "POST", url, content=request, headers=_LFS_JSON), url)
                actions = {each.oid: _download_of(each, url) for each in batch.objects}
                return [_at(file, actions) for file in files]
            except DownloadError as error:
                reasons.append(str(error))
        raise DownloadError("; ".join(reasons))


def _download_of(each: _Object, url: str) -> _Action:
    if each.actions is None:
        raise DownloadError(f"{url} gives no address: {each.error.message if each.error else 'it does not say why'}")
    return each.actions.download


def _at(file: RemoteFile, actions: dict[str, _Action]) -> RemoteFile:
    action = actions.get(file.checksum.removeprefix("sha256:"))
    if action is None:
        raise DownloadError(f"no address for '{file.name}' was given")
    return replace(file, url=action.href, headers=action.header)


# --- What there is ---------------------------------------------------------------------------------------------------


Source = ZenodoRecord | LfsRepository
"""Where a corpus lies: it names its `files`, and gives them the addresses that they have at this moment (`addressed`),
as many `at_once`."""


@dataclass(frozen=True)
class Corpus:
    """A corpus, and what to know before it is downloaded."""

    title: str
    licence: str
    page: str
    source: Source


_CC_BY = "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/): name the authors"
DOWNLOADS = {
    "grid": Corpus(
        "GRID audio-visual speech corpus (Cooke, Barker, Cunningham and Shao): 34 talkers, 1,000 sentences each",
        _CC_BY,
        "https://zenodo.org/records/3625687",
        ZenodoRecord(3625687, "cc-by-4.0", r"s\d+\.zip|audio_25k\.zip"),
    ),
    "lombard_grid": Corpus(
        "Lombard GRID corpus (Alghamdi, Maddock, Marxer, Barker and Brown): 54 talkers, 100 sentences each",
        _CC_BY,
        "https://zenodo.org/records/3736465",
        ZenodoRecord(3736465, "cc-by-4.0", r"lombardgrid_(front|audio)\.zip"),
    ),
    "crema_d": Corpus(
        "CREMA-D (Cao, Cooper, Keutmann, Gur, Nenkova and Verma): 91 actors, 7,442 clips",
        "ODbL 1.0 (https://opendatacommons.org/licenses/odbl/1-0/), contents DbCL 1.0: name the authors, keep what you "
        "make of the database itself under the same licence",
        "https://github.com/CheyneyComputerScience/CREMA-D",
        LfsRepository(r"VideoFlash/\w+\.flv"),
    ),
}


@dataclass(frozen=True)
class Offer:
    """What a corpus is at this moment."""

    corpus: Corpus
    files: tuple[RemoteFile, ...]

    @property
    def n_bytes(self) -> int:
        """As it comes through the network."""
        return sum(file.size for file in self.files)


def look_up(name: str, client: httpx.Client) -> Offer:
    """Ask for the files of a corpus; nothing is downloaded yet.

    Args:
        name: one of `DOWNLOADS`.

    Raises:
        OptionError: there is no such corpus. DownloadError: no answer, or one that names none of its files.
    """
    if name not in DOWNLOADS:
        raise OptionError(f"unknown corpus '{name}': choose one of {', '.join(DOWNLOADS)}")
    corpus = DOWNLOADS[name]
    files = corpus.source.files(client)
    if not files:
        raise DownloadError(f"{corpus.page} has no file like {corpus.source.wanted} any more")
    return Offer(corpus, tuple(files))


# --- How it comes here -----------------------------------------------------------------------------------------------


def download(offer: Offer, folder: Path, client: httpx.Client, hook: Hook | None = None) -> None:
    """Fetch all files, several at once, each checked; archives are unpacked into a folder of their name and go.

    What an earlier call has finished is left alone, and a file that was cut off goes on where it was.

    Raises:
        DownloadError: something cannot be had, or is not what was announced.
        OutputError: there is too little space, the disk refuses, or another run writes there.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with only_run(folder):
            lacking = [file for file in offer.files if not _is_there(folder, file)]
            _check_space(folder, lacking)
            _fetch_all(offer, lacking, folder, client, _Meter(offer, lacking, hook))


def _fetch_all(offer: Offer, lacking: Sequence[RemoteFile], folder: Path, client: httpx.Client, meter: _Meter) -> None:
    """By threads that nobody waits for at the end: a connection that stalls must not hold up who wants to leave."""
    n = offer.corpus.source.at_once
    groups = deque(lacking[start : start + n] for start in range(0, len(lacking), n))
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            while groups:
                with suppress(IndexError):  # another thread took the last one
                    _fetch_group(offer, groups.popleft(), folder, client, meter)
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    threads = [Thread(target=work, daemon=True) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            if (error := ended.get()) is not None:
                raise error
    finally:
        meter.stop.set()
        patience = time.monotonic() + GRACE_S
        for thread in threads:
            thread.join(max(0.0, patience - time.monotonic()))


def _fetch_group(offer: Offer, group: Sequence[RemoteFile], folder: Path, client: httpx.Client, meter: _Meter) -> None:
    if any(not (folder / file.name).exists() for file in group):
        group = offer.corpus.source.addressed(client, group)
    for file in group:
        path = folder / file.name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():  # else it was checked, and not yet unpacked
            fetch(client, file, path, meter.of(file))
        if _is_archive(file):
            try:
                unpack(path, path.with_suffix(""), meter.step)
            except DownloadError:
                path.unlink()  # it is of no use, not even to the next run
                raise
            path.unlink()
        meter.finish(file)


class _Stopped(Exception):
    """Another thread has failed."""


class _Meter:
    """How much has arrived, by all threads together."""

    def __init__(self, offer: Offer, lacking: Sequence[RemoteFile], hook: Hook | None) -> None:
        self.stop = Event()
        self._hook, self._lock, self._total = hook, Lock(), offer.n_bytes
        waiting = {file.name for file in lacking}
        self._arrived = {file.name: 0 if file.name in waiting else file.size for file in offer.files}

    def step(self) -> None:
        """Nothing has arrived; see whether to stop."""
        if self.stop.is_set():
            raise _Stopped
        with self._lock:
            if self._hook is not None:
                self._hook("download", sum(self._arrived.values()), self._total)

    def of(self, file: RemoteFile) -> Callable[[int], None]:
        def arrived(n_bytes: int) -> None:
            self._arrived[file.name] = n_bytes
            self.step()

        return arrived

    def finish(self, file: RemoteFile) -> None:
        self.of(file)(file.size)


def _is_archive(file: RemoteFile) -> bool:
    return file.name.endswith(".zip")


def _is_there(folder: Path, file: RemoteFile) -> bool:
    path = folder / file.name
    return path.with_suffix("").is_dir() if _is_archive(file) else path.is_file() and path.stat().st_size == file.size


def _check_space(folder: Path, lacking: Sequence[RemoteFile]) -> None:
    """Archives need their size once more, while they are unpacked; what they grow to is looked at when it is known."""
    begun = [partial(folder / file.name) for file in lacking]
    there = sum(path.stat().st_size for path in begun if path.is_file())
    archives = sorted((file.size for file in lacking if _is_archive(file)), reverse=True)
    needed, free = (
        sum(file.size for file in lacking) - there + sum(archives[:CONNECTIONS]),
        shutil.disk_usage(folder).free,
    )
    if needed > free:
        raise OutputError(
            f"'{folder}' has {free / 1e6:,.0f} MB of space, and {needed / 1e6:,.0f} MB are needed: free some space, or "
            "choose another folder with -o"
        )


def _parsed(kind: type[Reply], body: bytes, url: str) -> Reply:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DownloadError(f"{url} answers in a way that is not understood: {where} {first['msg']}") from None
