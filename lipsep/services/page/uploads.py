"""What visitors send: each file lies in the private folder of the visitor who sent it, and nobody else can name it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from lipsep.errors import OutputError
from lipsep.services.names import safe_name
from lipsep.system.outputs import writing_to

_COPY_BYTES = 2**20
_TOLD_EVERY_S = 0.2
_BEGINS_WITHIN_S = 3.0  # a request for progress may come before the upload that it is about


class Uploads:
    """Files that were sent and not yet separated.

    Args:
        root: an existing private folder.
        max_bytes: of a file.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root, self._max_bytes = root, max_bytes
        self._arrived: dict[tuple[str, str], tuple[str, int]] = {}  # (visitor, upload): name, bytes so far

    def folder_of(self, visitor: str) -> Path:
        return self._root / visitor

    async def take(self, request: Request, visitor: str, upload: str) -> Path:
        """The one file of a form, stored under a name that every system takes.

        Args:
            upload: what the page calls this upload when it asks for progress.

        Raises:
            HTTPException: 400, this is no form with one file; 413, it is too large; 507, the disk is full.
        """
        key = (visitor, upload)

        async def counted() -> dict:
            message = await request.receive()
            self._arrived[key] = ("", self._arrived.get(key, ("", 0))[1] + len(message.get("body", b"")))
            return message

        try:
            async with Request(request.scope, counted).form(max_files=1, max_fields=0) as form:
                file = form.get("files")
                if not isinstance(file, UploadFile):
                    raise HTTPException(400, "a form with one file named 'files' is needed")
                if file.size > self._max_bytes:
                    raise HTTPException(413, f"at most {self._max_bytes / 2**20:g} MB are taken here")
                return await asyncio.to_thread(self._store, visitor, safe_name(file.filename or ""), file)
        except (OutputError, OSError) as error:  # OSError: the form itself goes to the temporary folder first
            raise HTTPException(507, "the server cannot store files at present: come back later") from error
        finally:
            self._arrived.pop(key, None)

    def _store(self, visitor: str, name: str, file: UploadFile) -> Path:
        folder = self.folder_of(visitor) / secrets.token_hex(8)
        try:
            with writing_to(folder):
                folder.mkdir(parents=True, mode=0o700)
                with (folder / name).open("wb") as copy:
                    shutil.copyfileobj(file.file, copy, _COPY_BYTES)
        except OutputError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder / name

    async def progress(self, visitor: str, upload: str) -> AsyncIterator[str]:
        """Server-sent events as Gradio's page expects them: bytes since the last event, then "done"."""
        told, begins_by_s = 0, time.monotonic() + _BEGINS_WITHIN_S
        while (visitor, upload) in self._arrived or (not told and time.monotonic() < begins_by_s):
            arrived = self._arrived.get((visitor, upload), ("", 0))[1]
            if arrived > told:
                yield f"data: {json.dumps({'msg': 'update', 'orig_name': '', 'chunk_size': arrived - told})}\n\n"
                told = arrived
            await asyncio.sleep(_TOLD_EVERY_S)
        yield 'data: {"msg": "done"}\n\n'

    def own(self, visitor: str, path: str) -> Path | None:
        """The file that a visitor names by its path, if it is one that this visitor sent; else None."""
        try:
            found, folder = Path(path), self.folder_of(visitor)
            inside = found.resolve(strict=True).relative_to(folder.resolve(strict=True))
        except (OSError, ValueError, RuntimeError):  # not there, outside, with a zero byte, a circle of links
            return None
        return found if folder / inside == found and len(inside.parts) == 2 and found.is_file() else None

    def hand_over(self, path: Path, folder: Path) -> Path | None:
        """Move a file to be separated into a folder of its own; None if it is not there any more."""
        try:
            os.replace(path, folder / path.name)
        except FileNotFoundError:
            return None
        with suppress(OSError):
            path.parent.rmdir()
        return folder / path.name

    def take_back(self, path: Path, to: Path) -> None:
        """Move a file that was handed over back to where it lay; nothing if it was removed meanwhile."""
        with suppress(FileNotFoundError):
            to.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(path, to)

    def remove(self, path: Path) -> None:
        """A file that its visitor needs no more."""
        shutil.rmtree(path.parent, ignore_errors=True)

    def sweep(self, keep_s: float) -> None:
        """Remove what was sent long ago and never separated."""
        oldest_s = time.time() - keep_s
        for path in (*self._root.glob("*/*"), *self._root.glob("*")):
            with suppress(OSError):
                if path.lstat().st_mtime < oldest_s:
                    shutil.rmtree(path) if path.is_dir() and path.parent != self._root else _remove(path)


def _remove(path: Path) -> None:
    """A file, or a folder that has nothing in it."""
    path.rmdir() if path.is_dir() else path.unlink()
