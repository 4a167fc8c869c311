"""Work on a Ray cluster: a process that is killed in the middle costs nothing, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from scenes import build_clip, demo_people

from lipsep.data.corpora.shards import load_shards, prepare_shards
from lipsep.errors import ModelError, WeightsError
from lipsep.separation.options import Options
from lipsep.services.batch.inputs import Task, find_tasks
from lipsep.services.batch.run import run_tasks_on_ray
from lipsep.system.cluster import on_ray
from lipsep.system.outputs import STAGING_PREFIX, finished_report

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed (410 MB): make test-ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all tests: to start it takes seconds."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    """One second of two people."""
    path = tmp_path_factory.mktemp("clip") / "two.mp4"
    build_clip(demo_people(), path, duration_s=1, size=(320, 180))
    return path.read_bytes()


def kill_an_actor_when(happened) -> threading.Thread:
    """Ends one of this test's Ray processes by SIGKILL as soon as `happened()`."""

    def watch() -> None:
        patience_s = time.monotonic() + 120
        while not happened() and time.monotonic() < patience_s:
            time.sleep(0.02)
        os.kill(max(_actors()), signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def _actors() -> list[int]:
    """Processes of Ray's that descend from this one and run an actor."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names[int(folder.name)] = (folder / "cmdline").read_text()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it has just ended
            continue
    return [
        pid
        for pid, name in names.items()
        if "ray::" in name and "_Actor" in name and os.getpid() in _ancestors(pid, parents)
    ]


def _ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    line = [pid]
    while line[-1] in parents:
        line.append(parents[line[-1]])
    return line


def test_a_killed_process_costs_no_file_and_doubles_none(clip, model_folder, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for k in range(4):
        (source / f"{k}.mp4").write_bytes(clip)
    (source / "bad.mp4").write_bytes(clip[:1500])
    tasks = find_tasks([source], out)
    options = Options(video="none")
    killer = kill_an_actor_when(lambda: any(out.glob(f"*/{STAGING_PREFIX}*/results")))
    outcomes = list(run_tasks_on_ray("local", tasks, options, model=str(model_folder), device="cpu"))
    killer.join()
    assert sorted(task.source.name for task, _ in outcomes) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "bad.mp4"]
    assert {task.source.name for task, outcome in outcomes if outcome.status == "failed"} == {"bad.mp4"}
    assert all(finished_report(out / str(k)) for k in range(4))


def test_a_corpus_is_prepared_whole_although_a_process_is_killed(clip, tmp_path):
    root, out = tmp_path / "raw", tmp_path / "out"
    for k in range(5):
        (root / f"t{k}").mkdir(parents=True)
        (root / f"t{k}" / "1.mp4").write_bytes(clip if k != 2 else b"no video")
    killer = kill_an_actor_when(lambda: any(out.glob("all-*.npz")))
    summary = prepare_shards("folder", root, out, clips_per_shard=1, ray="local")
    killer.join()
    assert summary["splits"]["all"]["clips"] == 4
    assert [entry["clip"] for entry in summary["skipped"]] == ["t2_1"]
    assert load_shards(out, "all").names == ["t0_1", "t1_1", "t3_1", "t4_1"]
    assert not list(out.glob(".*"))
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.npz")}
    assert (
        prepare_shards("folder", root, out, clips_per_shard=1) == summary
    )  # finished work is left alone, on Ray or not
    assert written == {path: path.stat().st_mtime_ns for path in out.glob("*.npz")}


def test_what_goes_wrong_is_told_in_one_line(model_folder, tmp_path):
    tasks = [Task(tmp_path / "a.mp4", tmp_path / "a"), Task(tmp_path / "b.mp4", tmp_path / "b")]
    with pytest.raises(WeightsError, match="no weights are named 'dolfin'"):
        list(run_tasks_on_ray("local", tasks, {}, model="dolfin", device="cpu"))
    with pytest.raises(ModelError, match=r"died 4 times over the same piece of work"):
        list(on_ray("local", [1], _deadly))
    assert not list(tmp_path.iterdir())


def _deadly():
    return lambda _: os.kill(os.getpid(), signal.SIGKILL)
