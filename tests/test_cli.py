"""The command line as people use it: what is printed, what the exit code says, what is on disk afterwards."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from golden import fill_manifest
from scenes import build_clip, demo_people
from typer.testing import CliRunner

import lipsep.cli
from lipsep.checkpoints.catalogue import DEFAULT_MODEL
from lipsep.cli import app
from lipsep.errors import FaceError
from lipsep.media.reading import load_audio
from lipsep.separation.options import Options

runner = CliRunner()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Two people for 2 s, in a file whose name has spaces and letters outside ASCII."""
    path = tmp_path_factory.mktemp("my clips") / "Zwei Köpfe 两人.mp4"
    build_clip(demo_people(), path, duration_s=2, size=(640, 360))
    return path


def lipsep_command(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lipsep.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture
def lipsep_here(monkeypatch, capsys):
    """Like `lipsep_command`, in this process: quicker, as torch is loaded already."""

    def call(*arguments: object) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", ["lipsep", *map(str, arguments)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            lipsep.cli.main()
        except SystemExit as left:
            return subprocess.CompletedProcess(arguments, left.code, *capsys.readouterr())
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        raise AssertionError("main() came back without an exit code")

    return call


def one_line(ran: subprocess.CompletedProcess) -> str:
    """What stands on stderr: a single line, no traceback."""
    lines = ran.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in ran.stderr, ran.stderr
    return lines[0]


class Recorder:
    """Stands in for a Separator and notes how it was called."""

    def __init__(self) -> None:
        self.made: list[tuple] = []
        self.calls: list[tuple[Path, Path, dict]] = []

    def make(self, model, device, threads, weights):
        self.made.append((model, device, threads, weights))
        return self

    def __call__(self, source, out_dir, **options):
        self.calls.append((source, out_dir, options))
        if source.name.startswith("wall"):
            raise FaceError("no face in 50 frames")
        report = {"warnings": ["quiet"], "seconds": {"total": 1.0}, "input": {"duration_s": 2.0}}
        return SimpleNamespace(skipped=source.name.startswith("done"), tracks=[1, 2], report=report)


@pytest.fixture
def some_files(tmp_path, monkeypatch) -> None:
    """What commands name in the current folder; nobody reads them."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "v.mp4"):
        Path(name).write_bytes(b"no film")


@pytest.fixture
def recorder(monkeypatch, some_files) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr("lipsep.commands.separate.open_separator", recorder.make)
    return recorder


def test_a_video_becomes_one_voice_per_person_end_to_end(clip, model_folder, tmp_path, lipsep_here):
    out = tmp_path / "mit Leerzeichen"
    ran = lipsep_command("separate", clip, "-o", out, "--model", model_folder, "--device", "cpu", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "2 people" in ran.stdout and "overview.png" in ran.stdout
    folder = out / "Zwei Köpfe 两人"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["input"]["name"] == clip.name and len(report["tracks"]) == 2
    parts = [soundfile.read(folder / f"{n}.wav", dtype="float32")[0] for n in ("speaker_1", "speaker_2", "residual")]
    assert np.abs(parts[0]).max() > 0
    np.testing.assert_allclose(np.sum(parts, axis=0), report["scale"] * load_audio(clip), atol=2 / 32768)
    assert os.listdir(tmp_path) == [out.name] and os.listdir(clip.parent) == [clip.name]  # nothing anywhere else

    again = lipsep_here("separate", clip, "-o", out, "--model", model_folder, "--device", "cpu")
    assert again.returncode == 0 and "already done" in again.stdout
    other = lipsep_here("separate", clip, "-o", out, "--model", model_folder, "--device", "cpu", "--speakers", 1)
    assert other.returncode == 1 and "--overwrite" in one_line(other)


def test_weights_of_the_authors_separate_a_video(shared, clip, tmp_path, lipsep_here):
    state, theirs = fill_manifest(shared / "reference" / "models" / "AVLIT-8s1.json"), tmp_path / "their.ckpt"
    torch.save({"epoch": 3, "state_dict": state}, theirs)
    ran = lipsep_here(
        "separate", clip, "-o", tmp_path, "--model", "avlit_8_fusion_0", "--weights", theirs, "--device", "cpu"
    )
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / clip.stem
    parts = [soundfile.read(folder / f"{n}.wav", dtype="float32")[0] for n in ("speaker_1", "speaker_2", "residual")]
    assert max(np.abs(part).max() for part in parts[:2]) > 0  # like estimates: one gets all of it
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(np.sum(parts, axis=0), report["scale"] * load_audio(clip), atol=2 / 32768)
    assert "their.ckpt" in json.dumps(report)
    unnamed = lipsep_here("separate", clip, "-o", tmp_path, "--weights", theirs)
    assert unnamed.returncode == 1 and "--weights needs --model" in one_line(unnamed)
    another = lipsep_here("separate", clip, "-o", tmp_path, "--model", "ctcnet", "--weights", theirs)
    assert another.returncode == 1 and "none of the given files holds the separator of ctcnet" in one_line(another)


def test_several_inputs_get_a_folder_each_and_one_failure_does_not_stop_the_others(recorder, tmp_path):
    result = runner.invoke(app, ["separate", "a.mp4", "wall.mp4", "done.mp4", "b.mp4", "-o", str(tmp_path)])
    assert [call[1] for call in recorder.calls] == [tmp_path / n for n in ("a", "wall", "done", "b")]
    assert "a.mp4: 2 people" in result.stdout and "done.mp4: already done" in result.stdout
    assert "no face in 50 frames" in result.stderr and "note: quiet" in result.stderr
    assert result.exit_code == 1 and "1 of 4" in str(result.exception)
    assert len(recorder.made) == 1  # the model is loaded once


def test_two_inputs_of_one_name_are_refused_before_anything_is_done(recorder):
    result = runner.invoke(app, ["separate", "a/x.mp4", "b/x.mov"])
    assert "both write to" in str(result.exception) and not recorder.calls


def test_every_option_reaches_the_separator(recorder):
    arguments = (
        "a.mp4 -o out --model m --speakers 3 --detect-every-n 7 --face-scale 1.5 --device cuda:0 --keep-offscreen "
        "--video tracked --save-artifacts --overwrite --threads 2 --iterations 6 --streaming "
        "--weights w.ckpt --rate original --sync -80"
    )
    assert runner.invoke(app, ["separate", *arguments.split()]).exit_code == 0
    assert recorder.made == [("m", "cuda:0", 2, [Path("w.ckpt")])]
    source, out, called = recorder.calls[0]
    assert (source, out) == (Path("a.mp4"), Path("out/a")) and callable(called["hook"])
    assert called["options"] == Options(
        speakers=3, detect_every_n=7, face_scale=1.5, keep_offscreen=True, iterations=6, video="tracked",
        save_artifacts=True, overwrite=True, streaming=True, rate="original", sync=-80,
    )  # fmt: skip


def test_the_published_scripts_flags_keep_working(recorder, tmp_path):
    (tmp_path / "conf.yml").write_text("")
    (tmp_path / "model.safetensors").write_bytes(b"")
    arguments = (
        "--input v.mp4 --output out --speakers 2 --detect-every-n 8 --face-scale 1.5 --cuda-device 0 "
        f"--config {tmp_path}/conf.yml"
    )
    assert runner.invoke(app, ["separate", *arguments.split()]).exit_code == 0
    assert recorder.made == [(str(tmp_path), "cuda:0", None, [])]
    source, out, called = recorder.calls[0]
    assert (source, out) == (Path("v.mp4"), Path("out/v"))
    assert called["options"] == Options(speakers=2, detect_every_n=8, face_scale=1.5)
    runner.invoke(app, ["separate", "--input", "v.mp4", "--cuda-device", "-1"])
    assert recorder.made[-1][1] == "cpu"


def test_a_released_config_without_weights_beside_it_is_not_silently_ignored(recorder):
    result = runner.invoke(app, ["separate", "--input", "v.mp4", "--config", "checkpoints/vox2/conf.yml"])
    assert "no model.safetensors beside it" in str(result.exception) and not recorder.calls


def test_hidden_flags_do_not_clutter_the_help():
    text = runner.invoke(app, ["separate", "--help"]).stdout
    assert "--cuda-device" not in text and "--keep-offscreen" in text


def test_help_and_version_answer_at_once_without_torch():
    script = "import sys, lipsep.cli; assert not {'torch', 'cv2', 'av', 'matplotlib'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = lipsep_command("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # processor time: another program beside it does not count
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3  # 0.3 s measured
    assert ran.returncode == 0 and "separate" in ran.stdout and "demo" in ran.stdout
    assert lipsep_command("--version").stdout.startswith("lipsep 0.")


def test_no_input_is_a_usage_error():
    ran = lipsep_command("separate")
    assert ran.returncode == 2 and "at least one video" in ran.stderr


def test_a_missing_file_is_one_line_and_exit_code_1(model_folder, tmp_path):
    ran = lipsep_command("separate", "nowhere.mp4", "--model", model_folder, cwd=tmp_path)
    assert ran.returncode == 1 and "nowhere.mp4" in one_line(ran)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_told_before_anything_is_loaded(recorder):
    ran = runner.invoke(app, ["separate", "nowhere.mp4"])
    assert ran.exit_code == 1 and "does not exist" in str(ran.exception) and not recorder.made


def test_a_corrupt_model_file_is_one_line(clip, model_folder, tmp_path, lipsep_here):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes()[:5000])
    ran = lipsep_here("separate", clip, "--model", broken, "-o", tmp_path / "out")
    assert ran.returncode == 1 and "model.safetensors" in one_line(ran)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [("--model", "dolfin"), ("--device", "toaster"), ("--video", "sideways")])
def test_an_unknown_choice_is_one_line_that_names_it(clip, model_folder, tmp_path, lipsep_here, wrong):
    ran = lipsep_here("separate", clip, "--model", model_folder, "-o", tmp_path / "out", *wrong)
    assert ran.returncode == 1 and wrong[1] in one_line(ran) and not (tmp_path / "out").exists()


@pytest.mark.skipif(
    not Path("/sys/kernel").is_dir(), reason="needs a file system that nobody may write to: Linux' /sys"
)
def test_a_read_only_folder_is_one_line_before_any_work(clip, model_folder, lipsep_here):
    ran = lipsep_here("separate", clip, "--model", model_folder, "-o", "/sys/kernel/out")
    assert ran.returncode == 1 and "cannot write to" in one_line(ran)


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(clip, model_folder, tmp_path):
    """A limit on file sizes stands in for the full disk: writing fails in the middle of a file."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    ran = lipsep_command("separate", clip, "--model", model_folder, "-o", tmp_path / "out", preexec_fn=limit)
    assert ran.returncode == 1 and "cannot write" in one_line(ran)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_really_full_is_one_line_and_with_more_space_the_same_command_works(
    clip, model_folder, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        ran = lipsep_command("separate", clip, "--model", model_folder, "-o", disk / "out")
        assert ran.returncode == 1 and "No space left" in one_line(ran) and not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        ran = lipsep_command("separate", clip, "--model", model_folder, "-o", disk / "out")
        assert ran.returncode == 0 and (disk / "out" / clip.stem / "report.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_in_the_middle_leaves_nothing(clip, model_folder, tmp_path, sent, code):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "lipsep.cli", "separate", str(clip), "--model", str(model_folder), "-o", str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    patience = time.monotonic() + 60
    while not list(out.glob("*/.unfinished-*/results")) and time.monotonic() < patience:
        time.sleep(0.01)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.count("lipsep:") == 1 and "Traceback" not in stderr and "stopped" in stderr
    assert not out.exists()


def test_an_unexpected_error_is_one_line_with_a_way_to_see_more(monkeypatch, lipsep_here, some_files):
    def defect(*_):
        raise ValueError("two\nlines")

    monkeypatch.setattr("lipsep.commands.separate.open_separator", defect)
    ran = lipsep_here("separate", "a.mp4")
    assert ran.returncode == 2
    assert one_line(ran) == "lipsep: unexpected ValueError: two lines; run with --debug for the traceback"
    with pytest.raises(ValueError, match="two"):
        lipsep_here("separate", "a.mp4", "--debug")  # anywhere in the line
    monkeypatch.setattr(lipsep.cli.Stopped, "signal_number", signal.SIGINT)  # Ctrl-C, garbled by a library
    ran = lipsep_here("separate", "a.mp4")
    assert ran.returncode == 130 and "stopped" in one_line(ran)


def test_models_are_listed_with_licence_and_size():
    result = runner.invoke(app, ["models"])
    assert result.exit_code == 0, result.exception
    assert "dolphin" in result.stdout and "MB" in result.stdout


def test_training_without_its_packages_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "lipsep.training.run", raising=False)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("")
    result = runner.invoke(app, ["train", str(recipe)])
    assert "'lightning'" in str(result.exception) and "pip install 'lightning>=" in str(result.exception)


@pytest.mark.slow
def test_the_demo_prints_what_it_reached(model_folder, tmp_path, lipsep_here):
    ran = lipsep_command("demo", "--model", model_folder, "-o", tmp_path / "demo", "--device", "cpu")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("SI-SNRi") == 2 and "overview.png" in ran.stdout
    assert (tmp_path / "demo" / "speaker_2.wav").is_file()
    again = lipsep_here("demo", "--model", model_folder, "-o", tmp_path / "demo", "--device", "cpu")
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_people_interview_720p.mp4", "two_people_studio_1080p.mp4"])
def test_real_footage_runs_end_to_end(shared, model_folder, tmp_path, name):
    """3 s of two people who talk over each other: both are found, for the whole time, left and right."""
    import av

    source, cut = shared / "media" / name, tmp_path / name
    with av.open(str(source)) as whole, av.open(str(cut), "w") as piece:
        streams = {s.index: piece.add_stream_from_template(s) for s in (whole.streams.video[0], whole.streams.audio[0])}
        for packet in whole.demux(*(whole.streams[i] for i in streams)):
            if packet.dts is not None and packet.pts * packet.time_base < 3:
                packet.stream = streams[packet.stream.index]
                piece.mux(packet)
    ran = lipsep_command("separate", cut, "--model", model_folder, "-o", tmp_path, "--video", "tracked")
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / cut.stem / "report.json").read_text())
    assert len(report["tracks"]) == 2
    assert all(t["visible_s"] > 0.9 * report["input"]["duration_s"] for t in report["tracks"])
    assert (tmp_path / cut.stem / "speaker_2.mp4").stat().st_size > 10_000


def test_models_are_listed_at_once_the_default_first(lipsep_here, monkeypatch):
    ran = lipsep_command("models", env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    assert ran.returncode == 0 and " torch\n" not in ran.stderr  # which alone takes longer than all of the answer
    lines = ran.stdout.splitlines()
    assert lines[1].strip().startswith(f"{DEFAULT_MODEL} (default): ")
    assert any(line.strip().startswith("dolphin: 7.00 M parameters") for line in lines)
    listed = json.loads(lipsep_command("models", "--json").stdout)
    assert [entry["name"] for entry in listed["weights"] if entry["default"]] == [DEFAULT_MODEL]
    assert {entry["name"] for entry in listed["models"]} == set(lipsep.list_models())


def test_completion_knows_commands_and_options():
    asked = {"_LIPSEP_COMPLETE": "complete_bash", "COMP_WORDS": "lipsep separate --save", "COMP_CWORD": "2"}
    environment = os.environ | asked
    ran = subprocess.run([sys.executable, "-m", "lipsep"], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["--save-artifacts"], ran.stderr


def test_quiet_leaves_errors_and_no_notes(monkeypatch, capsys):
    from lipsep.commands.terminal import complain, note, talk

    heard = logging.getLogger("lipsep.anything")
    before = logging.getLogger("lipsep").level
    try:
        talk(-1)
        heard.warning("a warning")
        note("a note")
        complain("an error")
        assert capsys.readouterr().err == "lipsep: an error\n"
        talk(0)
        heard.warning("a warning")
        heard.info("a detail")
        note("a note")
        assert capsys.readouterr().err == "a warning\nnote: a note\n"
        talk(1)
        heard.info("a detail")
        assert capsys.readouterr().err == "a detail\n"
    finally:
        logging.getLogger("lipsep").setLevel(before)


def test_a_name_that_begins_with_a_dash_is_a_file_where_there_is_one(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-holiday.mp4").write_bytes(b"no video")
    for name in "-holiday.mp4", "-nothere.mp4":
        monkeypatch.setattr("sys.argv", ["lipsep", "people", name])
        with pytest.raises(SystemExit):
            lipsep.cli.main()
    there, not_there = capsys.readouterr().err.split("Usage")
    assert "'-holiday.mp4' cannot be read" in there and "No such option" in not_there


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color_is_obeyed(no_color, coloured, monkeypatch):
    said = []
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("lipsep.commands.terminal.typer.secho", lambda text, fg, err: said.append(fg))
    lipsep.commands.terminal.complain("an error")
    assert bool(said[0]) == coloured
