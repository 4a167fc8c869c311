"""Names of files as visitors send them."""

from __future__ import annotations

import re

_MAX_BYTES = 200  # of the 255 that file systems take: the names of temporary files are a little longer
_MAX_SUFFIX_BYTES = 20


def safe_name(name: str) -> str:
    """The last part of a name, with only such signs as every system takes in file names, at most 200 bytes of UTF-8.

    Its ending is kept where it is one; what is too long is cut before it.
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = re.sub(r"[^\w .()-]", "_", last).strip(" .")
    stem, dot, ending = kept.rpartition(".")
    if not dot or len(ending.encode()) > _MAX_SUFFIX_BYTES:
        stem, dot, ending = kept, "", ""
    room = _MAX_BYTES - len((dot + ending).encode())
    stem = stem.encode()[:room].decode(errors="ignore").strip(" .")
    return f"{stem or 'video'}{dot}{ending}"
