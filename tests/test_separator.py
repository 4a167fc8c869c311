"""The main path: what a user finds in the folder, hears in the files, reads in the report."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile
from scenes import Clip, Shot, build_clip, demo_people

from lipsep.errors import FaceError, MediaError, ModelError, OutputError
from lipsep.faces.tracks import FaceTrack
from lipsep.media.clip import FileClip
from lipsep.media.reading import load_audio, read_frames
from lipsep.models import SeparationModel
from lipsep.results.overview import spectrogram
from lipsep.results.report import presence_runs
from lipsep.separation.device import choose_device
from lipsep.separator import Separator
from lipsep.system.outputs import OutputFolder
from lipsep.system.spool import Spool

PCM_STEP = 1 / 32768


class Share(SeparationModel):
    """Gives everyone the same share of the mixture: cheap, and every sum is known."""

    def __init__(self, share: float = 0.25, lip_recipe: str = "mesh_32") -> None:
        super().__init__(None, lip_recipe=lip_recipe, keeps_level=True)
        self.share = share

    def forward(self, mixture, lips):
        return self.share * mixture[:, None]


def separator(share: float = 0.25, **options) -> Separator:
    return Separator(Share(share), device="cpu", **options)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Clip:
    """Two people side by side for 3 s, the second only from 1.6 s on."""
    path = tmp_path_factory.mktemp("clip") / "two people.mp4"
    shots = [Shot(0.0, (0, None)), Shot(1.6, (0, 1))]
    return build_clip(demo_people(), path, duration_s=3, shots=shots, size=(640, 360))


@pytest.fixture(scope="module")
def done(clip, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "done"
    steps = []
    result = separator()(clip.path, out, save_artifacts=True, hook=lambda *call: steps.append(call))
    return out, result, steps


@pytest.fixture
def known(done, monkeypatch) -> list[FaceTrack]:
    """The people of `clip` as they were found in `done`: what follows after finding them is tested faster."""
    tracks = done[1].tracks
    monkeypatch.setattr("lipsep.results.people.find_faces", lambda frames, *, speakers, **_: tracks[:speakers])
    return tracks


def wav(path: Path) -> np.ndarray:
    signal, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000 and signal.ndim == 1
    return signal


WHO_SPEAKS = [f"who_speaks_when.{suffix}" for suffix in ("csv", "rttm", "txt")]


def everything_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_every_promised_file_is_there_and_nothing_else(done):
    out, result, _ = done
    assert everything_in(out) == [
        "artifacts/speaker_1_lips.mp4",
        "artifacts/speaker_1_track.npz",
        "artifacts/speaker_2_lips.mp4",
        "artifacts/speaker_2_track.npz",
        "overview.png",
        "report.json",
        "residual.wav",
        "speaker_1.mp4",
        "speaker_1.wav",
        "speaker_2.mp4",
        "speaker_2.wav",
        *WHO_SPEAKS,
    ]
    assert sorted(result.files) == sorted(out / name for name in everything_in(out))


def test_voices_and_residual_sum_to_the_mixture_sample_by_sample(clip, done):
    out, _, _ = done
    mixture = load_audio(clip.path)
    parts = [wav(out / f"{name}.wav") for name in ("speaker_1", "speaker_2", "residual")]
    assert {len(p) for p in parts} == {len(mixture)}
    np.testing.assert_allclose(np.sum(parts, axis=0), mixture, atol=2 * PCM_STEP)  # three roundings of half a step


def test_who_is_not_visible_is_silent_and_who_is_visible_is_heard(clip, done):
    out, _, _ = done
    mixture, late = load_audio(clip.path), wav(out / "speaker_2.wav")
    assert not late[: int(1.4 * 16_000)].any()
    np.testing.assert_allclose(late[int(1.8 * 16_000) :], 0.25 * mixture[int(1.8 * 16_000) :], atol=PCM_STEP)
    np.testing.assert_allclose(wav(out / "speaker_1.wav"), 0.25 * mixture, atol=PCM_STEP)  # to the very last sample


def test_keep_offscreen_hears_people_throughout(clip, known):
    result = separator()(clip.path, keep_offscreen=True)
    np.testing.assert_allclose(result.voices[1], 0.25 * load_audio(clip.path), atol=1e-6)


def test_each_video_has_the_original_pictures_and_that_voice(clip, done):
    out, _, _ = done
    before = [frame.image for frame in read_frames(clip.path, grey=True)]
    after = [frame.image for frame in read_frames(out / "speaker_1.mp4", grey=True)]
    assert len(before) == len(after) and all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    heard, voice = load_audio(out / "speaker_1.mp4"), wav(out / "speaker_1.wav")
    n = min(len(heard), len(voice))
    assert n > len(voice) - 1600
    assert np.corrcoef(heard[:n], voice[:n])[0, 1] > 0.95  # AAC changes samples; a shift of 1 ms would show


def test_the_report_says_what_happened(clip, done):
    out, result, _ = done
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report == result.report
    assert report["input"]["name"] == "two people.mp4" and report["input"]["duration_s"] == pytest.approx(3, abs=0.1)
    assert [t["person"] for t in report["tracks"]] == [1, 2]
    (start, end), *rest = report["tracks"][1]["presence"]
    assert not rest and start == pytest.approx(1.6, abs=0.2) and end == pytest.approx(3, abs=0.1)
    assert "speaker_2.wav" in report["tracks"][1]["files"] and "speaker_1.wav" not in report["tracks"][1]["files"]
    assert set(report["seconds"]) == {"read", "faces", "lips", "separate", "write", "total"}
    assert report["real_time_factor"] == pytest.approx(
        report["seconds"]["total"] / report["input"]["duration_s"], abs=0.01
    )
    assert 50 < report["peak_memory_mib"] < 10_000
    assert report["model"]["lip_recipe"] == "mesh_32" and report["scale"] == 1 and report["versions"]["torch"]
    assert set(report["files"]) | {"report.json"} == set(everything_in(out))


def test_progress_runs_through_every_step_to_its_end(done):
    _, _, steps = done
    assert list(dict.fromkeys(s for s, _, _ in steps)) == [
        "read",
        "faces",
        "separate",
        "write",
    ]  # mesh lips need no pass
    last = {step: (completed, total) for step, completed, total in steps}
    assert all(completed == total for completed, total in last.values())


def test_a_model_that_watches_pixels_gets_them_from_a_second_look_at_the_video(clip, known):
    class Watcher(Share):
        def forward(self, mixture, lips):
            assert lips.shape[-2:] == (88, 88)
            self.seen.append(lips.std(dim=(-2, -1)).numpy())
            return super().forward(mixture, lips)

    model, steps = Watcher(lip_recipe="mouth_88"), []
    model.seen = []
    Separator(model, "cpu", batch=1)(clip.path, hook=lambda step, *_: steps.append(step))
    assert "lips" in steps
    first, second = np.concatenate(model.seen)  # (F,): how much there is to see
    assert first[:75].min() > 0.1 and not second[:35].any() and second[45:75].min() > 0.1


def test_the_picture_shows_everyone(done):
    out, _, _ = done
    picture = cv2.imread(str(out / "overview.png"), cv2.IMREAD_GRAYSCALE)
    height, width = picture.shape
    assert width > 900 and height > 400
    rows = np.array_split(picture[:, width // 4 : -20].astype(float), 4)  # mixture, two people, residual
    assert all(row.std() > 20 for row in rows)  # none is blank, also in grey


def test_artifacts_hold_track_and_lips(done):
    out, result, _ = done
    with np.load(out / "artifacts" / "speaker_2_track.npz") as track:
        np.testing.assert_array_equal(track["present"], result.tracks[1].present)
        assert np.isnan(track["landmarks"][0]).all() and np.isfinite(track["landmarks"][-1]).all()
    lips = [frame.image for frame in read_frames(out / "artifacts" / "speaker_1_lips.mp4", grey=True)]
    assert lips[0].shape == (32, 32) and np.std(lips, axis=0).max() > 5  # the mouth moves


def test_a_path_an_open_file_and_arrays_give_the_same_voices(clip):
    by_path = separator()(clip.path)
    by_file = separator()(io.BytesIO(clip.path.read_bytes()))
    frames = np.stack([frame.image for frame in read_frames(clip.path)])
    by_arrays = separator()((load_audio(clip.path), frames))
    for result in by_file, by_arrays:
        np.testing.assert_allclose(result.voices, by_path.voices, atol=1e-6)
        np.testing.assert_allclose(result.residual, by_path.residual, atol=1e-6)
    assert by_path.voices.shape == (2, len(by_path.residual)) and not by_path.files


def test_arrays_of_another_shape_are_refused_with_what_is_needed():
    with pytest.raises(MediaError, match=r"needs float \(T,\) at 16000 Hz and uint8 \(F, H, W, 3\)"):
        separator()((np.zeros((2, 16_000)), np.zeros((25, 8, 8, 3), np.uint8)))
    with pytest.raises(MediaError, match="int16 waveform"):  # its full scale is unknown
        separator()((np.zeros(16_000, np.int16), np.zeros((25, 8, 8, 3), np.uint8)))
    with pytest.raises(MediaError, match="not finite"):
        separator()((np.full(16_000, np.nan), np.zeros((25, 8, 8, 3), np.uint8)))


def test_finished_work_is_neither_redone_nor_destroyed(clip, known, tmp_path):
    separator()(clip.path, tmp_path / "out", video="none")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    again = separator()(clip.path, tmp_path / "out", video="none")
    assert again.skipped and sorted(again.files) == sorted(before)
    with pytest.raises(OutputError, match=r"holds finished work.*--overwrite"):
        separator()(clip.path, tmp_path / "out", video="none", speakers=1)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}


def test_overwrite_replaces_the_run_and_removes_only_what_that_run_wrote(clip, known, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    separator()(clip.path, tmp_path, video="none")
    separator()(clip.path, tmp_path, video="none", speakers=1, overwrite=True)
    mine = ["notes.txt", "overview.png", "report.json", "residual.wav", "speaker_1.wav"]
    assert everything_in(tmp_path) == [*mine, *WHO_SPEAKS]


def test_a_report_of_something_else_is_not_replaced(clip, known, tmp_path):
    (tmp_path / "report.json").write_text('{"invoice": 17}')
    with pytest.raises(OutputError, match=r"report\.json' was not written by lipsep.*--overwrite"):
        separator()(clip.path, tmp_path, video="none")
    assert everything_in(tmp_path) == ["report.json"] and "invoice" in (tmp_path / "report.json").read_text()


def test_overwriting_never_reaches_outside_the_folder(clip, known, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    forged = {"lipsep": "", "input": {}, "settings": {}, "files": ["../precious.txt"]}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text(json.dumps(forged))
    separator()(clip.path, tmp_path / "out", video="none", overwrite=True)
    assert (tmp_path / "precious.txt").exists()


def test_half_finished_work_is_redone(clip, known, tmp_path):
    (tmp_path / "speaker_1.wav").write_bytes(b"half")
    result = separator()(clip.path, tmp_path, video="none")
    assert not result.skipped and len(wav(tmp_path / "speaker_1.wav")) == len(load_audio(clip.path))
    (tmp_path / "residual.wav").unlink()  # a report whose files are gone is no finished work either
    assert not separator()(clip.path, tmp_path, video="none").skipped


def test_voices_beyond_full_scale_are_turned_down_together_and_it_is_said(clip, known, tmp_path):
    with pytest.warns(UserWarning, match="same factor"):
        result = separator(share=3.0)(clip.path, tmp_path, video="none", keep_offscreen=True)
    scale, mixture = result.report["scale"], load_audio(clip.path)
    assert 0 < scale < 1 and any("full scale" in w for w in result.report["warnings"])
    parts = [wav(tmp_path / f"{name}.wav") for name in ("speaker_1", "speaker_2", "residual")]
    np.testing.assert_allclose(np.sum(parts, axis=0), scale * mixture, atol=2 * PCM_STEP)
    np.testing.assert_allclose(parts[0], 3 * scale * mixture, atol=PCM_STEP)  # nothing is clipped


def test_tracked_video_draws_boxes_on_the_people(clip, known, tmp_path):
    separator()(clip.path, tmp_path, video="tracked", speakers=1)
    plain = list(read_frames(clip.path, grey=True))[40].image.astype(float)
    drawn = list(read_frames(tmp_path / "speaker_1.mp4", grey=True))[40].image.astype(float)
    assert drawn.shape == plain.shape
    changed = np.abs(drawn - plain) > 60
    assert 200 < changed.sum() < 0.1 * changed.size
    assert changed[:, :320].sum() > 10 * changed[:, 320:].sum()  # only the left person was asked for


def film(path: Path, n_frames: int, sound: bool) -> Path:
    """A grey wall, without anybody."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for index in range(n_frames):
            picture = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 90, np.uint8), format="rgb24")
            container.mux(video.encode(picture))
            if audio:
                samples = (0.1 * np.sin(np.arange(640) + 640 * index)).astype(np.float32)[None]
                block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                block.sample_rate, block.pts = 16_000, 640 * index
                container.mux(audio.encode(block))
        for stream in (video, audio) if audio else (video,):
            container.mux(stream.encode())
    return path


def test_nobody_visible_is_told_with_the_number_of_frames_and_leaves_nothing(tmp_path):
    source = film(tmp_path / "wall.mp4", 50, sound=True)
    with pytest.raises(FaceError, match=r"no face in 50 frames \(2\.0 s\) of 'wall\.mp4'.*--face-scale 2") as caught:
        separator()(source, tmp_path / "a" / "b")
    assert "\n" not in str(caught.value) and everything_in(tmp_path) == ["wall.mp4"] and not (tmp_path / "a").exists()


def test_a_silent_film_is_refused_in_one_line(tmp_path):
    with pytest.raises(MediaError, match=r"'mute\.mp4'.*(no sound|no audio)"):
        separator()(film(tmp_path / "mute.mp4", 10, sound=False), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sound_without_pictures_is_refused_in_one_line(tmp_path):
    soundfile.write(tmp_path / "radio.wav", np.zeros(16_000), 16_000)
    with pytest.raises(MediaError, match=r"'radio\.wav'"):
        separator()(tmp_path / "radio.wav")


def test_a_photograph_and_a_folder_are_refused_in_one_line(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((240, 320, 3), 90, np.uint8))
    for source in tmp_path / "photo.png", tmp_path:
        with pytest.raises(MediaError, match=source.name) as caught:
            separator()(source, tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_face_that_never_speaks_is_pointed_out(clip, known, monkeypatch):
    """Somebody silent, or a poster: one cannot tell, so the report leaves it to the user."""
    rigid = np.where(np.isnan(known[1].landmarks), np.nan, known[1].landmarks[-1])
    tracks = [known[0], replace(known[1], landmarks=rigid.astype(np.float32))]
    monkeypatch.setattr("lipsep.results.people.find_faces", lambda *_, **__: tracks)
    with pytest.warns(UserWarning, match="lips of person 2 hardly move"):
        result = separator()(clip.path)
    assert [("hardly move" in w) for w in result.report["warnings"]] == [True]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MediaError, match="nowhere"):
        separator()(tmp_path / "nowhere.mp4", tmp_path / "out")


def test_the_input_is_never_overwritten_by_its_own_result(clip, tmp_path):
    source = tmp_path / "speaker_1.mp4"
    source.write_bytes(clip.path.read_bytes())
    with pytest.raises(OutputError, match="overwritten by its own result"):
        separator()(source, tmp_path, overwrite=True)
    assert source.read_bytes() == clip.path.read_bytes()


def test_a_full_disk_is_one_line_and_leaves_nothing(clip, known, tmp_path, monkeypatch):
    append, steps = Spool.append, [""]

    def full(self, rows):
        if steps[-1] == "separate":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, rows)

    monkeypatch.setattr(Spool, "append", full)
    with pytest.raises(OutputError, match=r"cannot write to '.*out'.*No space left.*free some space"):
        separator()(clip.path, tmp_path / "out", hook=lambda step, *_: steps.append(step))
    assert steps[-1] == "separate"
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_told_before_any_work(clip, tmp_path):
    (tmp_path / "file").write_text("")
    steps = []
    with pytest.raises(OutputError, match=r"cannot write to .*choose another folder"):
        separator()(clip.path, tmp_path / "file" / "out", hook=lambda *call: steps.append(call))
    assert not steps


def test_interrupting_leaves_nothing(clip, known, tmp_path):
    def interrupt(step, completed, total):
        if step == "separate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        separator()(clip.path, tmp_path / "out", hook=interrupt)
    assert everything_in(tmp_path) == [] and not (tmp_path / "out").exists()


def test_what_a_killed_run_left_is_swept_up_later_but_a_running_one_is_not_disturbed(tmp_path):
    for name, age_s in ("old", 7 * 3600), ("running", 60):
        left = tmp_path / f".unfinished-{name}"
        left.mkdir()
        (left / "mixture.f32").write_bytes(b"1234")
        for path in (left / "mixture.f32", left):
            os.utime(path, (os.stat(path).st_atime, os.stat(path).st_mtime - age_s))
    with OutputFolder(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".unfinished-running"]


def test_fewer_people_than_asked_for_is_said(clip, known):
    with pytest.warns(UserWarning, match="only 2 of the 3"):
        assert len(separator()(clip.path, speakers=3).tracks) == 2


def test_a_short_absence_does_not_cut_a_word(clip, known, monkeypatch):
    """A hand before the mouth for 0.4 s: the tracker loses the face, the voice goes on."""
    present = known[0].present.copy()
    present[30:40] = False
    monkeypatch.setattr("lipsep.results.people.find_faces", lambda *_, **__: [replace(known[0], present=present)])
    result = separator()(clip.path)
    np.testing.assert_allclose(result.voices[0], 0.25 * load_audio(clip.path), atol=1e-6)
    assert len(result.report["tracks"][0]["presence"]) == 2  # the report tells what was seen


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "mps"])
def test_devices_that_are_not_there_are_refused_with_a_way_out(name):
    with pytest.raises(ModelError, match=r"cpu"):
        choose_device(name)


def test_file_clips_are_told_apart_by_content(clip, tmp_path):
    copy, other = tmp_path / "copy.mp4", tmp_path / "other.mp4"
    copy.write_bytes(clip.path.read_bytes())
    other.write_bytes(clip.path.read_bytes() + b"\0" * 8)
    assert FileClip(copy).signature == FileClip(clip.path).signature != FileClip(other).signature


def test_presence_runs():
    assert presence_runs(np.array([0, 1, 1, 0, 1], bool)) == [[0.04, 0.12], [0.16, 0.2]]
    assert presence_runs(np.zeros(5, bool)) == []


@pytest.mark.parametrize("seconds", [0.01, 1.0, 300.0])
def test_spectrogram_has_a_bounded_size_and_the_right_level(seconds):
    n_samples = int(seconds * 16_000)
    power = spectrogram(
        lambda a, b: np.sin(2 * np.pi * 1000 / 16_000 * np.arange(a, b)).astype(np.float32), n_samples, n_columns=400
    )
    assert power.shape[0] == 257 and 1 <= power.shape[1] <= 400
    if seconds >= 1:
        assert power[:, power.shape[1] // 2].argmax() == 32  # 1 kHz of 8
        assert power[32, power.shape[1] // 2] == pytest.approx(0, abs=0.5)  # full scale


@pytest.mark.slow
def test_an_hour_needs_little_memory_and_comes_out_whole(tmp_path):
    """Everything but the decoder and the detector, in a process of its own whose peak memory is the assertion."""
    script = textwrap.dedent("""
        import sys
        import numpy as np
        import lipsep.results.people as people
        import lipsep.results.run as run
        import lipsep.separator as s
        from lipsep.faces.tracks import FaceTrack
        from lipsep.media.reading import Frame
        from lipsep.media.sound import PLAIN
        from lipsep.models import SeparationModel

        N_FRAMES = 60 * 60 * 25

        class Hour:
            path, name, signature, n_frames, n_samples = None, "an hour", "hour", N_FRAMES, N_FRAMES * 640
            sound = PLAIN
            def __init__(self, *_): pass
            def audio(self):
                for start in range(0, self.n_samples, 160_000):
                    yield np.sin(np.arange(start, start + 160_000) / 40).astype(np.float32) / 2
            def frames(self, *, grey=False):
                image = np.zeros((64, 64) if grey else (64, 64, 3), np.uint8)
                for index in range(N_FRAMES):
                    yield Frame(index, index / 25, image)

        def find_faces(frames, **_):
            for _ in frames: pass
            points = np.random.default_rng(0).uniform(10, 50, (68, 2)).astype(np.float32)
            moving = np.repeat(points[None], N_FRAMES, 0)
            box = np.tile(np.float32([8, 8, 56, 56]), (N_FRAMES, 1))
            return [FaceTrack(k, np.ones(N_FRAMES, bool), box, moving, np.zeros((96, 96, 3), np.uint8)) for k in (1, 2)]

        class Share(SeparationModel):
            def __init__(self): super().__init__(None, lip_recipe="mesh_32", keeps_level=True)
            def forward(self, mixture, lips): return 0.25 * mixture[:, None]

        run.FileClip, people.find_faces = Hour, find_faces
        report = s.Separator(Share(), "cpu")("hour.mp4", sys.argv[1], video="none").report
        print(report["peak_memory_mib"], report["input"]["n_samples"])
    """)
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    peak_mib, n_samples = map(float, ran.stdout.split())
    assert peak_mib < 1200, peak_mib
    assert n_samples == 3600 * 16_000
    with soundfile.SoundFile(tmp_path / "out" / "speaker_2.wav") as voice:
        assert voice.frames == 3600 * 16_000
        voice.seek(voice.frames - 16_000)
        end = voice.read(dtype="float32")
    np.testing.assert_allclose(end, np.sin(np.arange(3599 * 16_000, 3600 * 16_000) / 40) / 8, atol=2 * PCM_STEP)
