"""A video that is removed, replaced or written to while it is separated: one line, and no result of two halves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from clips import make_clip
from scenes import build_clip, demo_people

from lipsep.errors import MediaError
from lipsep.media.clip import FileClip
from lipsep.models import SeparationModel
from lipsep.separator import Separator


class Share(SeparationModel):
    """Gives everyone the same share of the mixture."""

    def __init__(self) -> None:
        super().__init__(None, lip_recipe="mesh_32", keeps_level=True)

    def forward(self, mixture, lips):
        return 0.25 * mixture[:, None]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("films")
    build_clip(demo_people(), folder / "talk.mp4", duration_s=1, size=(320, 180))
    return folder / "talk.mp4", make_clip(folder / "other.mp4", seconds=1.0)


def replace(source: Path, other: Path) -> None:
    shutil.copy(other, source.with_suffix(".new"))
    os.replace(source.with_suffix(".new"), source)


def append(source: Path, _: Path) -> None:
    with source.open("ab") as file:
        file.write(bytes(1000))


def truncate(source: Path, _: Path) -> None:
    with source.open("r+b") as file:
        file.truncate(2000)


CHANGES = {
    "removed": (lambda source, _: source.unlink(), "was removed"),
    "replaced": (replace, "was replaced"),
    "rewritten in place": (lambda source, other: shutil.copy(other, source), "was replaced"),
    "appended to": (append, "still being written"),
    "cut": (truncate, "was replaced"),
    "a folder now": (lambda source, _: (source.unlink(), source.mkdir()), "was replaced"),
}


@pytest.mark.parametrize(
    ("change", "step"),
    [*((change, "read") for change in CHANGES), *(("replaced", step) for step in ("faces", "separate", "write"))],
)
def test_a_change_at_any_step_is_told_in_one_line_and_leaves_nothing(films, tmp_path, step, change):
    source, done = tmp_path / "talk.mp4", []
    shutil.copy(films[0], source)
    make, said = CHANGES[change]

    def hook(at: str, completed: int, total: int | None) -> None:
        if at == step and not done:
            done.append(at)
            make(source, films[1])

    with pytest.raises(MediaError, match=f"'talk.mp4' {said}|'talk.mp4' was replaced") as told:
        Separator(Share(), "cpu")(source, tmp_path / "out", video="original", hook=hook)
    assert done and "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_stays_as_it_is_has_one_signature(films):
    clip = FileClip(films[0])
    assert clip.signature == clip.signature == FileClip(films[0]).signature
