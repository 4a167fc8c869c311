"""Zip archives of strangers: unpacked as a whole or not at all, and nowhere but into their folder."""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lipsep.errors import DownloadError, OutputError
from lipsep.system.outputs import STAGING_PREFIX

MOST_ENTRIES = 1_000_000
MOST_GROWTH = 20  # times the archive: speech and films grow by 3 at most
BLOCK = 2**20  # bytes
_DRIVE = re.compile(r"[A-Za-z]:")
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, lzma.LZMAError)


def unpack(archive: Path, folder: Path, step: Callable[[], None]) -> None:
    """Unpack a zip archive into `folder`, which appears when all is there.

    Args:
        step: called often; may raise to stop, and nothing is left then.

    Raises:
        DownloadError: the archive is damaged, has an entry that is no plain file or leads out of the folder, or would
            grow beyond all measure; nothing is left.
        OutputError: it would fill the disk. OSError: the disk refuses.
    """
    staging = folder.with_name(f"{STAGING_PREFIX}{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked(opened, archive)
            needed, free = sum(entry.file_size for entry in entries), shutil.disk_usage(archive.parent).free
            if needed > free:
                raise OutputError(
                    f"'{archive.name}' becomes {needed / 1e6:,.0f} MB, '{archive.parent}' has {free / 1e6:,.0f} MB: "
                    "free some space, the same command goes on from here"
                )
            staging.mkdir()
            for entry in entries:
                step()
                _unpack_entry(opened, entry, staging, step)
        staging.replace(folder)
    except _DAMAGED as error:
        raise DownloadError(f"'{archive.name}' cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, staging: Path, step: Callable[[], None]) -> None:
    path = staging / entry.filename
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as content, path.open("xb") as out:  # zipfile reads no more than was declared
        while block := content.read(BLOCK):
            out.write(block)
            step()


def _checked(opened: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    entries = opened.infolist()
    for entry in entries:
        if reason := _unsafe(entry):
            raise DownloadError(f"'{archive.name}' is not unpacked: its entry {entry.filename[:100]!r} {reason}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise DownloadError(f"'{archive.name}' is not unpacked: it has several entries of one name")
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_ENTRIES or total > MOST_GROWTH * max(BLOCK, archive.stat().st_size):
        raise DownloadError(
            f"'{archive.name}' is not unpacked: it would become {len(entries)} files of {total / 1e9:.1f} GB together"
        )
    return entries


def _unsafe(entry: zipfile.ZipInfo) -> str:
    """Why an entry is not unpacked; empty: it may be."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    leads_out = name.startswith("/") or ".." in PurePosixPath(name).parts or _DRIVE.match(name)
    if leads_out or "\\" in name or "\0" in name or not name.strip("/"):
        return "leads out of its folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    return "is encrypted" if entry.flag_bits & 1 else ""
