"""Whether what lies in the hub's cache is what the hub sent."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from lipsep.errors import WeightsError


def check_download(folder: Path) -> Path:
    """Compare each file of a cached repository with its hash, and give the folder back.

    The cache keeps files under the hash that the hub announced: SHA-256 of large ones, git's blob hash (SHA-1 of a
    header and the content) of small ones. Where a system has no links (Windows) the hash is not kept, nor looked at.

    Raises:
        WeightsError: a file differs. It is removed, so that the next run gets it again.
    """
    for path in sorted(folder.iterdir()):
        blob = path.resolve()
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            continue
        content = blob.read_bytes()
        if len(blob.name) == 64:
            found = hashlib.sha256(content).hexdigest()
        else:
            found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if found != blob.name:
            blob.unlink()
            path.unlink(missing_ok=True)
            raise WeightsError(
                f"'{path.name}' in '{folder}' was damaged on the way (hash {found[:12]}, announced {blob.name[:12]}): "
                "it is removed, run the same command again to download it"
            )
    return folder
