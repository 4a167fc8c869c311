"""A picture of a run that cannot be drawn costs the picture, never the voices."""

from __future__ import annotations

import json

import pytest
import soundfile
from scenes import Shot, build_clip, demo_people

from lipsep.separator import Separator


def test_voices_outlive_a_picture_that_fails(model_folder, tmp_path, monkeypatch) -> None:
    clip = build_clip(demo_people(), tmp_path / "one.mp4", duration_s=1, shots=[Shot(0.0, (0, None))], size=(320, 180))

    def fail(path, *_):
        path.write_bytes(b"half a picture")
        raise TypeError("matplotlib is too old")

    monkeypatch.setattr("lipsep.results.writing.draw_overview", fail)
    out = tmp_path / "out"
    result = Separator(model_folder, device="cpu")(clip.path, out, video="none")
    left = sorted(path.name for path in out.iterdir() if path.stem != "who_speaks_when")
    assert left == ["report.json", "residual.wav", "speaker_1.wav"]
    assert soundfile.info(out / "speaker_1.wav").frames == pytest.approx(16_000, abs=640)
    told = json.loads((out / "report.json").read_text())["warnings"]
    assert any("overview.png" in line and "matplotlib is too old" in line for line in told), told
    assert result.report["warnings"] == told
