"""What is shipped is named: weights and their sources, in the files that go into the wheel."""

from __future__ import annotations

import pytest
from places import ROOT

WEIGHTS = sorted(path.name for path in (ROOT / "lipsep" / "weights").iterdir() if path.is_dir())


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_ship_are_named_with_their_sources(name):
    notice, models = ((ROOT / file).read_text(encoding="utf-8") for file in ("NOTICE", "MODELS.md"))
    assert f"lipsep/weights/{name}" in notice
    if name != "faces":  # which are MediaPipe's, and no models to choose
        assert f"`{name}`" in models
        for source in "GRID", "LibriSpeech", "ESC-10":
            assert source in notice and source in models


def test_weights_that_are_named_do_ship():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    named = {word.split("/")[2] for word in notice.replace(",", " ").split() if word.startswith("lipsep/weights/")}
    assert named == set(WEIGHTS)


def test_the_wheel_takes_them_along():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'license-files = ["LICENSE", "NOTICE", "MODELS.md"]' in project
