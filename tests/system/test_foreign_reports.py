"""A report.json that lipsep has not written, or that somebody has changed: never believed, never in the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from lipsep.errors import OutputError
from lipsep.services.batch.inputs import find_tasks
from lipsep.system.outputs import OutputFolder, finished_report

OURS: dict[str, Any] = {
    "lipsep": "0.1.0",
    "input": {"name": "a.mp4", "signature": "1-a", "duration_s": 1.0, "n_samples": 16_000},
    "settings": {"model": "dolphin", "video": "none"},
    "tracks": [{"person": 1, "files": ["speaker_1.wav"], "presence": [[0.0, 1.0]]}],
    "seconds": {"read": 0.1, "total": 1.0},
    "warnings": ["quiet"],
    "files": ["residual.wav", "speaker_1.wav"],
}
JUNK = (None, 1, -1.5, True, "x", "", [], {}, [1], {"a": 1}, "../x", "/etc/passwd", float("nan"), 10**400)


def changed() -> list[Any]:
    """Everything that can stand in each place of a report."""
    reports: list[Any] = [*JUNK, {"lipsep": "1", "input": {}, "settings": {}, "files": [1]}]
    for key, inner in (
        *((key, None) for key in ("lipsep", "input", "settings", "tracks", "seconds", "warnings", "files")),
        *(("input", "name"), ("input", "signature"), ("input", "duration_s"), ("settings", "model")),
        ("seconds", "total"),
    ):
        for value in JUNK:
            report = deepcopy(OURS)
            (report if inner is None else report[key])[inner or key] = value
            reports.append(report)
            gone = deepcopy(OURS)
            del (gone if inner is None else gone[key])[inner or key]
            reports.append(gone)
    for name in (
        "../precious.mp4",
        "/etc/passwd",
        "a.mp4",
        "report.json",
        "speaker_1/../../x.wav",
        "speaker_1.wav\n",
        "C:x",
    ):
        reports.append({**OURS, "files": [name]})
        reports.append({**OURS, "tracks": [{"person": 1, "files": [name]}]})
    return reports


def test_a_real_report_is_believed(tmp_path):
    for name in ("residual.wav", "speaker_1.wav"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "report.json").write_text(json.dumps(OURS))
    assert finished_report(tmp_path) == OURS
    (tmp_path / "residual.wav").unlink()
    assert finished_report(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "\ufeff{}", "\0", "NaN", "\xff\xfe"])
def test_what_is_no_json_is_not_ours(tmp_path, text):
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(OutputError, match="was not written by lipsep"):
        finished_report(tmp_path)


def test_whatever_stands_in_a_report_it_is_ours_or_refused_and_nothing_foreign_is_removed(tmp_path):
    """Searching a folder, asking whether it is finished, and overwriting what is there."""
    reports = changed()
    assert len(reports) > 200
    for report in reports:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for name in ("a.mp4", "notes.txt", "speaker_1.wav", "residual.wav"):
            (out / name).write_bytes(b"mine")
        (tmp_path / "precious.mp4").write_bytes(b"mine")
        (out / "report.json").write_text(json.dumps(report))
        try:
            assert finished_report(out) in (None, report) or report != report
        except OutputError as error:
            assert "\n" not in str(error)
            assert [task.source.name for task in find_tasks([out], tmp_path / "results")] == ["a.mp4"]
        with OutputFolder(out) as folder:
            (folder.results / "speaker_1.wav").write_bytes(b"new")
            folder.publish(OURS)
        assert {"a.mp4", "notes.txt"} <= {path.name for path in out.iterdir()}, report
        assert (tmp_path / "precious.mp4").exists() and (out / "speaker_1.wav").read_bytes() == b"new"


def test_the_folder_of_the_report_is_separated_for_what_it_is(shared, tmp_path, model_folder):
    folder = tmp_path / "videos"
    shutil.copytree(shared / "cases" / "service" / "foreign_report", folder)
    assert [task.source.name for task in find_tasks([folder], tmp_path / "out")] == ["a.mp4"]
    command = [sys.executable, "-m", "lipsep.cli", "separate", str(folder), "-o", str(tmp_path / "out")]
    ran = subprocess.run([*command, "--model", str(model_folder), "--device", "cpu"], capture_output=True, text=True)
    assert "Traceback" not in ran.stderr and "unexpected" not in ran.stderr
    assert ran.returncode in (0, 1) and (tmp_path / "out" / "batch.jsonl").is_file()
    assert Path(folder / "report.json").exists()
