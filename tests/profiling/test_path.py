"""Where the time of a separation goes."""

from __future__ import annotations

from pathlib import Path

from scenes import build_clip, demo_people
from typer.testing import CliRunner

from lipsep.cli import app
from lipsep.profiling.path import path_table


def test_shares_add_up_and_count_what_loading_took() -> None:
    report = {"input": {"duration_s": 20.0}, "seconds": {"faces": 3.0, "separate": 5.0, "total": 8.0}}
    rows = [line.split() for line in path_table(report, opening_s=2.0, processor_s=15.0).splitlines()[1:]]
    assert rows == [
        ["load", "2.00", "20%", "0.100"],
        ["faces", "3.00", "30%", "0.150"],
        ["separate", "5.00", "50%", "0.250"],
        ["total", "10.00", "100%", "0.500"],
        ["processor", "15.00", "0.750"],
    ]


def test_a_video_is_separated_and_every_step_is_told(model_folder: Path, tmp_path: Path, monkeypatch) -> None:
    clip = build_clip(demo_people(), tmp_path / "talk.mp4", duration_s=1, size=(320, 180))
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["profile", "--path", str(clip.path), str(model_folder)])
    assert ran.exit_code == 0, ran.output
    for step in ("load", "read", "faces", "lips", "separate", "write", "total", "processor"):
        assert f"\n{step} " in ran.output, ran.output
    assert [path.name for path in tmp_path.iterdir()] == ["talk.mp4"]  # nothing is left


def test_one_model_alone_can_be_asked() -> None:
    ran = CliRunner().invoke(app, ["profile", "--path", "talk.mp4", "dolphin", "bin"])
    assert ran.exit_code == 2 and "name one" in ran.output
