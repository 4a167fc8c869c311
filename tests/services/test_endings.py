"""However a service's process for the work behaves: the service ends in time, cancels at once, and leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
import httpx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
ENDS_WITHIN_S = 5.0
STUCK = """
import os, signal, sys, time

if "lipsep.services.worker" in sys.orig_argv:  # what hangs in a library answers no signal and never comes back
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.readline()
    print('{"event": "ready"}', flush=True)
    order = __import__("json").loads(sys.stdin.readline())
    os.makedirs(order["out"] + "/.unfinished-x")
    open(order["out"] + "/.unfinished-x/voice.wav", "w").close()
    print('{"event": "progress", "step": "read", "completed": 1, "total": 9}', flush=True)
    time.sleep(1000)
"""


@contextmanager
def service(command: str, tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """`lipsep serve` or `lipsep web` as people start it, with processes for the work that hang."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(STUCK)
    (tmp_path / "tmp").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    paths = [str(tmp_path / "site"), str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    process = subprocess.Popen(
        [sys.executable, "-m", "lipsep.cli", command, "--port", str(port), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = f"http://127.0.0.1:{port}"
    patience_s = time.monotonic() + 120
    while True:
        try:
            httpx.get(f"{address}/health")
            break
        except httpx.TransportError:
            assert time.monotonic() < patience_s and process.poll() is None, process.stderr.read()
            time.sleep(0.1)
    try:
        yield process, address
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def crowded() -> float:
    """How much longer everything takes, because other programs run too."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def ended(process: subprocess.Popen, number: int, n_times: int = 1) -> str:
    """What the service has said on stderr, once it has ended in time after a signal."""
    start_s = time.monotonic()
    for _ in range(n_times):
        process.send_signal(number)
        time.sleep(0.3)
    try:
        process.wait(ENDS_WITHIN_S * crowded())
    except subprocess.TimeoutExpired:
        pytest.fail(f"did not end within {ENDS_WITHIN_S} s")
    print(f"ended after {time.monotonic() - start_s:.1f} s")
    return process.stderr.read()


def children_of(process: subprocess.Popen) -> list[int]:
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(k) for thread in threads for k in (thread / "children").read_text().split()]


def running_job(address: str) -> str:
    job = httpx.post(f"{address}/v1/jobs", files={"file": ("film.mp4", b"a film")}).json()["id"]
    patience_s = time.monotonic() + 30
    while httpx.get(f"{address}/v1/jobs/{job}").json()["step"] != "read":
        assert time.monotonic() < patience_s
        time.sleep(0.05)
    return job


def test_a_cancelled_job_leaves_no_file_the_next_one_runs_and_the_server_ends_in_time(tmp_path):
    with service("serve", tmp_path, "--data", str(tmp_path / "jobs"), "--jobs", "2") as (process, address):
        cancelled, kept = running_job(address), running_job(address)
        start_s = time.monotonic()
        assert httpx.delete(f"{address}/v1/jobs/{cancelled}").status_code == 204
        assert httpx.get(f"{address}/v1/jobs/{cancelled}").status_code == 404
        assert httpx.get(f"{address}/health").status_code == 200 and time.monotonic() - start_s < 1 * crowded()
        while (tmp_path / "jobs" / cancelled).exists():
            assert time.monotonic() - start_s < ENDS_WITHIN_S * crowded()
            time.sleep(0.05)
        another = running_job(address)
        workers = children_of(process)
        assert len(workers) >= 2
        said = ended(process, signal.SIGTERM)
        assert "Traceback" not in said and said.count("\n") <= 1
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers), "no process is left"
    # the jobs are not lost: the next server does them
    assert {path.name for path in (tmp_path / "jobs").iterdir() if path.is_dir()} == {kept, another}


@pytest.mark.slow
@pytest.mark.parametrize("n_times", [1, 2])
def test_ctrl_c_once_or_twice_ends_everything(tmp_path, n_times):
    with service("serve", tmp_path, "--data", str(tmp_path / "jobs")) as (process, address):
        running_job(address)
        workers = children_of(process)
        assert "Traceback" not in ended(process, signal.SIGINT, n_times)
        assert workers and not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.slow
def test_the_page_ends_in_time_and_takes_its_files_with_it(tmp_path):
    pytest.importorskip("gradio", reason="needs pip install 'lipsep[web]'")
    from visiting import Visitor

    with service("web", tmp_path) as (process, address):
        visitor = Visitor(address)
        (path,) = visitor.upload("film.mp4", b"a film").json()
        visitor.join(path)
        with visitor.http.stream("GET", f"/gradio_api/queue/data?session_hash={visitor.session}") as events:
            assert any("reading the sound" in line for line in events.iter_lines())
            assert list((tmp_path / "tmp").glob("lipsep-web-*"))
            said = ended(process, signal.SIGTERM)
        assert "Traceback" not in said
    left = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]  # Gradio makes an empty folder
    assert not left and not list((tmp_path / "tmp").glob("lipsep*"))
