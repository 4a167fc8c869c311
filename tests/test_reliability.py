"""The whole path under abuse: damaged inputs, kills at any moment, disks and memory that end. docs/reliability.md."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
from damaged import N_FRAMES, corpus, film, whole
from places import TESTS
from scenes import build_clip, demo_people

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.errors import LipsepError
from lipsep.faces.tracks import find_faces
from lipsep.media.reading import read_frames
from lipsep.models import SeparationModel
from lipsep.separation.options import Options
from lipsep.separator import Separator
from lipsep.services.process import WorkerProcess

TIME_LIMIT_S = 60.0  # for one damaged file; they take a few tenths of a second


@pytest.fixture(scope="module")
def talking(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "talking.mp4"
    build_clip(demo_people(), path, duration_s=1, size=(320, 180))
    return path


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_no_input_crashes_hangs_or_confuses(model_folder, talking, tmp_path):
    """The full corpus through a process of its own, as `lipsep separate FOLDER` does it."""
    (tmp_path / "corpus").mkdir()
    worker = WorkerProcess(str(model_folder), "cpu", 1)
    worker.start()
    slowest_s, became, wrong = 0.0, Counter(), []
    for number, source in enumerate(corpus(tmp_path / "corpus", talking)):
        out = tmp_path / "out" / str(number)
        outcome = worker.separate(source, out, Options(video="original"), time_limit_s=TIME_LIMIT_S)
        became[outcome.kind or outcome.status] += 1
        slowest_s = max(slowest_s, outcome.seconds)
        if outcome.status == "done":
            right = whole(out)
        else:
            one_line = bool(outcome.message) and "\n" not in outcome.message and "Traceback" not in outcome.message
            told = ("MediaError", "FaceError", "OutputError")
            right = outcome.kind in told and one_line and not out.exists()
        if not right:
            wrong.append(f"{source.name}: {outcome.kind} {outcome.message}")
            print(wrong[-1], flush=True)
    worker.close()
    print(f"{sum(became.values())} inputs: {dict(became)}; slowest {slowest_s:.1f} s")
    assert not wrong, wrong
    assert sum(became.values()) >= 300 and became["done"] >= 30  # the corpus is not mere rubbish either


KILLED = """
import os, signal, sys
from pathlib import Path

import numpy as np

import lipsep.separator
from damaged import whole
from lipsep.faces.tracks import find_faces
from lipsep.models import SeparationModel
from lipsep.separator import Separator


class Share(SeparationModel):
    def __init__(self):
        super().__init__(None, lip_recipe="mesh_32", keeps_level=True)

    def forward(self, mixture, lips):
        return 0.25 * mixture[:, None]


source, out, n_kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
separator = Separator(Share(), "cpu")
tracks = separator(source, out, video="original").tracks  # everything is imported and known from here on
lipsep.separator.find_faces = lambda frames, **_: tracks
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def run(number, die_at):
    '''In a process of its own: the run, ended by SIGKILL before its die_at-th step on the disk. Steps taken.'''
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        steps = 0

        def watch(event, arguments):
            nonlocal steps
            if event in EVENTS:
                steps += 1
                if steps == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        # other settings each time, so that every run replaces finished work of another one
        separator(source, out, video="original", overwrite=True, speakers=None if number % 2 else 2)
        os.write(writer, str(steps).encode())
        os._exit(0)
    os.close(writer)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    assert os.WIFSIGNALED(status) == (not told), status
    return int(told or 0)


n_steps = run(0, -1)
assert n_steps >= n_kills, n_steps
for number, die_at in enumerate(np.linspace(1, n_steps, n_kills).round().astype(int)):
    assert run(number, die_at) == 0
    assert whole(out), (die_at, sorted(p.name for p in out.iterdir()))
assert run(1, -1)
assert whole(out)
print(n_steps, *sorted(p.name for p in out.iterdir() if p.name[0] != "." or any(p.glob("results"))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_killed_at_every_step_nothing_broken_bears_a_final_name(talking, tmp_path):
    """52 moments from the first to the last thing that a run does on the disk, most of them while results appear."""
    arguments = [sys.executable, "-c", KILLED, str(talking), str(tmp_path / "out"), "52"]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    n_steps, *left = ran.stdout.split()
    assert int(n_steps) >= 52
    assert left == [
        "overview.png",
        "report.json",
        "residual.wav",
        "speaker_1.mp4",
        "speaker_1.wav",
        "speaker_2.mp4",
        "speaker_2.wav",
        "who_speaks_when.csv",
        "who_speaks_when.rttm",
        "who_speaks_when.txt",
    ]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux to take memory away")
def test_without_memory_one_line_and_afterwards_it_works(model_folder, talking, tmp_path):
    worker = WorkerProcess(str(model_folder), "cpu", 1)
    worker.start()
    process = worker._process.pid
    used = int(Path(f"/proc/{process}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(process, resource.RLIMIT_AS, (used + 2**22, used + 2**22))
    outcome = worker.separate(talking, tmp_path / "out", Options(video="none"))
    # what the libraries make of it varies: no memory, a crash, or pictures that cannot be decoded
    assert outcome.status == "failed" and outcome.message and "\n" not in outcome.message
    assert outcome.kind != "unexpected", outcome
    assert not (tmp_path / "out" / "report.json").exists()
    worker.close()
    assert worker.separate(talking, tmp_path / "out", Options(video="none")).status == "done"
    worker.close()


def test_a_picture_that_is_held_for_long_costs_little(talking):
    """Slow videos, and pictures whose timestamps jump by an hour."""
    picture = next(iter(read_frames(talking)))
    start_s = time.process_time()
    tracks = find_faces([picture] * 5_000)
    assert len(tracks) == 2 and all(track.present.all() for track in tracks)
    assert time.process_time() - start_s < 20  # 20 ms for each frame would take 100 s


@pytest.mark.timeout(120)
def test_pictures_that_outlast_the_sound_by_hours_are_not_looked_at(talking, tmp_path):
    """A flipped byte in an AVI header made 4.7 hours of 13 pictures."""
    pictures = [frame.image for frame in read_frames(talking)][:N_FRAMES]
    source = film(
        tmp_path / "hours.mkv", pictures, picture_times_s=lambda k: 1300.0 * k, kind=("mjpeg", "yuvj420p", "flac")
    )
    looked_at = Counter()
    start_s = time.process_time()
    result = Separator(Share(), "cpu")(source, hook=lambda step, completed, total: looked_at.update({step: 1}))
    assert len(result.tracks) == 2 and len(result.voices[0]) == N_FRAMES * SAMPLES_PER_FRAME
    assert looked_at["faces"] < 100 and time.process_time() - start_s < 20


class Share(SeparationModel):
    """Gives everyone the same share of the mixture."""

    def __init__(self) -> None:
        super().__init__(None, lip_recipe="mesh_32", keeps_level=True)

    def forward(self, mixture, lips):
        return 0.25 * mixture[:, None]


def test_a_part_of_the_corpus_is_separated_or_refused_in_one_line(talking, tmp_path):
    """A quick look in this process; the whole corpus is in the exhaustive test above."""
    (tmp_path / "corpus").mkdir()
    separator, became = Separator(Share(), "cpu"), Counter()
    for number, source in enumerate(corpus(tmp_path / "corpus", talking, n_random=48)):
        if number % 4:
            continue
        start_s = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                separator(source, tmp_path / "out" / str(number), video="none")
                assert whole(tmp_path / "out" / str(number)), source.name
                became["done"] += 1
            except LipsepError as error:
                assert "\n" not in str(error), source.name
                became["refused"] += 1
        assert time.process_time() - start_s < 20, source.name
    assert became["done"] >= 3 and became["refused"] >= 3
