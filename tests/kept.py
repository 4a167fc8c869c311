"""Filmed corpora as a first run would have left them."""

from __future__ import annotations

import json
from pathlib import Path

from lipsep.data.clips.clips import TalkingClips
from lipsep.data.corpora.prepare import kept_at
from lipsep.data.corpora.shards import SUMMARY


def keep(clips: TalkingClips, prepared: Path, folder: Path) -> Path:
    """Clips as what `prepared` keeps of a folder, which need not be there; returns where they lie."""
    return write_shards(clips, kept_at(prepared, folder))


def write_shards(clips: TalkingClips, where: Path) -> Path:
    """Clips of one split as `lipsep prepare` writes them."""
    clips.save(where / "all-00000.npz")
    (where / SUMMARY).write_text(json.dumps({"splits": {"all": {"clips": len(clips)}}, "skipped": []}))
    return where
