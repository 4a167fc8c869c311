"""Many files: what is found in folders, what survives failures, crashes and kill -9, what the log says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from clips import make_clip
from scenes import build_clip, demo_people

from lipsep.commands.terminal import Lines
from lipsep.errors import MediaError, OutputError, WeightsError, plain_reason
from lipsep.media.containers import source_name
from lipsep.results.voices import file_stem
from lipsep.separation.options import Options
from lipsep.services import process
from lipsep.services.batch import run
from lipsep.services.batch.inputs import Task, find_tasks
from lipsep.services.batch.run import BatchLog
from lipsep.services.process import Outcome, WorkerProcess
from lipsep.system.outputs import STAGING_PREFIX


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    """One second of two people."""
    path = tmp_path_factory.mktemp("clip") / "two.mp4"
    build_clip(demo_people(), path, duration_s=1, size=(320, 180))
    return path.read_bytes()


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lipsep.cli", "separate", *map(str, arguments), "--device", "cpu", "--video", "none"]


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "batch.jsonl").read_text(encoding="utf-8").splitlines()]


def status_of(rows: list[dict]) -> dict[str, str]:
    return {Path(row["source"]).name: row["status"] for row in rows}


# --- What is found ---------------------------------------------------------------------------------------------------


def test_folders_are_searched_for_videos_and_keep_their_shape(tmp_path):
    touch(tmp_path, "b.MP4", "a.mov", "notes.txt", ".hidden.mp4", "day 1/c.mkv", "day 1/d/e.webm", ".trash/f.mp4")
    flat = find_tasks([tmp_path], Path("out"))
    assert flat == [Task(tmp_path / "a.mov", Path("out/a")), Task(tmp_path / "b.MP4", Path("out/b"))]
    deep = {str(t.source.relative_to(tmp_path)): str(t.out) for t in find_tasks([tmp_path], Path("out"), True)}
    assert deep == {
        "a.mov": "out/a",
        "b.MP4": "out/b",
        "day 1/c.mkv": "out/day 1/c",
        "day 1/d/e.webm": "out/day 1/d/e",
    }


def test_results_of_earlier_runs_are_no_inputs(tmp_path):
    report = {
        "lipsep": "1",
        "input": {"name": "a.mp4", "signature": "1-a", "duration_s": 1.0},
        "settings": {"model": "dolphin"},
        "tracks": [{"person": 1, "files": ["speaker_1.mp4"]}],
        "seconds": {"total": 1.0},
        "warnings": [],
        "files": ["speaker_1.mp4"],
    }
    touch(tmp_path, "a.mp4", "a/speaker_1.mp4", "results/b/speaker_1.mp4", f"{STAGING_PREFIX}x/results/speaker_1.mp4")
    (tmp_path / "a" / "report.json").write_text(json.dumps(report))
    found = find_tasks([tmp_path], tmp_path / "results", True)
    assert [task.source.name for task in found] == ["a.mp4"]


def test_files_that_differ_in_their_ending_get_folders_of_their_full_name(tmp_path):
    touch(tmp_path, "talk.mp4", "Talk.mov", "other.mp4")
    assert sorted(t.out.name for t in find_tasks([tmp_path], Path("out"))) == ["Talk.mov", "other", "talk.mp4"]


def test_what_cannot_be_found_or_told_apart_is_refused(tmp_path):
    touch(tmp_path, "one/talk.mp4", "two/talk.mp4")
    with pytest.raises(MediaError, match="--recursive"):
        find_tasks([tmp_path], Path("out"))
    with pytest.raises(OutputError, match="both write to"):
        find_tasks([tmp_path / "one", tmp_path / "two"], Path("out"))


# --- A process that may die ------------------------------------------------------------------------------------------


class Broken(WorkerProcess):
    """Runs a script in place of lipsep.services.worker."""

    def __init__(self, monkeypatch, body: str) -> None:
        super().__init__()
        start = 'import sys, os, time, signal; sys.stdin.readline(); print(\'{"event": "ready"}\', flush=True); '
        popen, script = subprocess.Popen, start + "sys.stdin.readline(); " + body

        def substitute(_, **options):
            return popen([sys.executable, "-c", script], **options)

        monkeypatch.setattr(process.subprocess, "Popen", substitute)


@pytest.mark.parametrize(
    ("body", "limit_s", "kind", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", None, "crash", "crashed (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", None, "crash", "lack of memory"),
        ("sys.exit(3)", None, "crash", "code 3"),
        ("time.sleep(60)", 0.3, "time limit", "longer than the time limit of 0.3 s"),
    ],
)
def test_crashes_and_hangs_are_told_in_one_line(monkeypatch, tmp_path, body, limit_s, kind, said):
    worker = Broken(monkeypatch, body)
    outcome = worker.separate(Path("bad.mp4"), tmp_path, Options(), time_limit_s=limit_s)
    assert (outcome.status, outcome.kind) == ("failed", kind)
    assert said in outcome.message and "bad.mp4" in outcome.message and "\n" not in outcome.message
    again = worker.separate(Path("bad.mp4"), tmp_path, Options(), time_limit_s=limit_s)  # a new process is started
    assert again.kind == kind
    worker.close()


def test_weights_that_cannot_be_loaded_are_refused_before_anything_is_done(tmp_path):
    tasks = [Task(Path("a.mp4"), tmp_path / "a"), Task(Path("b.mp4"), tmp_path / "b")]
    with pytest.raises(WeightsError, match=r"no weights are named 'dolfin'"):
        list(run.run_tasks(tasks, {}, model="dolfin", device="cpu", n_jobs=2))
    assert not list(tmp_path.iterdir())


def test_lack_of_memory_and_a_lost_gpu_are_told_as_such():

    assert "out of memory" in plain_reason(MemoryError())
    assert "--device cpu" in plain_reason(torch.AcceleratorError("CUDA error: unspecified launch failure\nmore"))
    assert plain_reason(ValueError("a defect")) is None


# --- The log ---------------------------------------------------------------------------------------------------------


def test_the_log_is_complete_after_every_file_and_survives_a_torn_line(tmp_path):
    (tmp_path / "batch.jsonl").write_text('{"run": "earlier", "sta')
    log = BatchLog(tmp_path)
    report = {"input": {"duration_s": 2.0}, "tracks": [1, 2], "warnings": ["quiet"]}
    log.add(Task(Path("a\n.mp4"), tmp_path / "a"), Outcome("done", 1.5, report))
    log.add(Task(Path("b.mp4"), tmp_path / "b"), Outcome("failed", 0.1, kind="MediaError", message="no sound"))
    torn, first, second = (tmp_path / "batch.jsonl").read_text().splitlines()
    assert torn.endswith("sta")
    first, second = json.loads(first), json.loads(second)
    assert (first["source"], first["people"], first["duration_s"], first["status"]) == ("a\n.mp4", 2, 2.0, "done")
    assert (second["kind"], second["message"]) == ("MediaError", "no sound") and first["run"] == second["run"]


# --- For real --------------------------------------------------------------------------------------------------------


def test_a_batch_goes_on_after_failures_and_sums_up(clip, model_folder, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    touch(source, "empty.mp4")
    for name in ("good.mp4", "sub/also good.mp4"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(clip)
    (source / "cut.mp4").write_bytes(clip[:1500])
    make_clip(source / "nobody.mkv", seconds=0.4, codec="ffv1", audio_codec="flac")
    arguments = (source, "-o", out, "--recursive", "--jobs", 2, "--model", model_folder)
    ran = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "3 of 5 files could not be separated" in ran.stderr.splitlines()[-1]
    told = [line for line in ran.stderr.splitlines() if "files done" not in line]  # those come every so often
    assert len(told) == 4, ran.stderr  # one line for each failure
    assert status_of(log_of(out)) == {
        "empty.mp4": "failed",
        "cut.mp4": "failed",
        "nobody.mkv": "failed",
        "good.mp4": "done",
        "also good.mp4": "done",
    }
    assert (out / "sub" / "also good" / "report.json").is_file() and (out / "good" / "speaker_2.wav").is_file()
    assert sorted(p.name for p in out.iterdir()) == ["batch.jsonl", "good", "sub"]  # failures leave nothing
    assert "failed" in ran.stdout and "batch.jsonl" in ran.stdout


@pytest.mark.slow
def test_after_kill_9_finished_files_are_kept_and_the_rest_is_done(clip, model_folder, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for k in range(4):
        (source / f"{k}.mp4").write_bytes(clip)
    arguments = command(source, "-o", out, "--jobs", 1, "--model", model_folder)
    first = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience_s = time.monotonic() + 120
    while not list(out.glob(f"1/{STAGING_PREFIX}*/results")) and time.monotonic() < patience_s:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("0/*")}
    assert "report.json" in {path.name for path in before} and not (out / "3").exists()
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    second_run = [row for row in log_of(out) if row["run"] == log_of(out)[-1]["run"]]
    assert status_of(second_run)["0.mp4"] == "already done" and status_of(second_run)["3.mp4"] == "done"
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("0/*")}
    assert {p.name for k in range(4) for p in (out / str(k)).iterdir()} == {
        "overview.png",
        "report.json",
        "residual.wav",
        "speaker_1.wav",
        "speaker_2.wav",
        "who_speaks_when.csv",
        "who_speaks_when.rttm",
        "who_speaks_when.txt",
    }


def test_ctrl_c_stops_every_process_and_leaves_only_finished_work(clip, model_folder, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.mp4").write_bytes(clip)
    process = subprocess.Popen(
        command(source, "-o", out, "--model", model_folder),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    patience_s = time.monotonic() + 60
    while not list(out.glob(f"a/{STAGING_PREFIX}*/results")) and time.monotonic() < patience_s:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stderr.count("lipsep:") == 1 and "stopped" in stderr
    assert [p.name for p in out.iterdir()] == ["batch.jsonl"]


def test_names_that_are_no_utf8_are_logged(tmp_path):
    """As with LC_ALL=C, and on disks of old systems."""
    source = Path(os.fsdecode(b"K\xf6pfe.mp4"))
    BatchLog(tmp_path).add(
        Task(source, tmp_path / "K"), Outcome("failed", 1.0, kind="MediaError", message=f"{source}: no")
    )
    assert log_of(tmp_path)[0]["source"] == str(source)


def test_a_log_without_a_terminal_hears_of_the_work_every_so_often(monkeypatch, capsys):
    now_s = iter([0.0, 1.0, 31.0, 40.0, 70.0])
    monkeypatch.setattr("lipsep.commands.terminal.time.monotonic", lambda: next(now_s))
    lines = Lines(is_terminal=False)
    for completed in (10, 20, 30, 40):
        lines.tell("a.mp4", "faces", completed, 80)
    assert capsys.readouterr().err == "a.mp4: finding faces 25 %\na.mp4: finding faces 50 %\n"


def test_names_outside_utf8_and_ascii_reach_files_as_well_as_they_can(monkeypatch):
    assert source_name(Path(os.fsdecode(b"K\xf6pfe.mp4"))) == "K\N{REPLACEMENT CHARACTER}pfe.mp4"
    assert Options.of(name=os.fsdecode(b"1=J\xfcrgen")).names == {1: "J\N{REPLACEMENT CHARACTER}rgen"}
    assert file_stem(1, "J\u00fcrgen") == "speaker_1_J\u00fcrgen"
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    assert file_stem(1, "J\u00fcrgen") == "speaker_1_Jrgen" and file_stem(1, "\u65e5\u672c") == "speaker_1"
