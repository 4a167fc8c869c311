"""The bundled clip and the clips made like it: what the picture and the sound must be for the main path to work."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import as_file, files
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from puppets import PORTRAITS, Puppet, load_portrait, portraits
from scenes import Person, Shot, at_pace, build_clip, demo_people
from scipy.signal import resample_poly

from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.data.synthetic.visemes import Phone, mouth_curves
from lipsep.errors import MediaError
from lipsep.faces.tracks import find_faces
from lipsep.media.reading import load_audio

ASSETS = files("lipsep") / "assets"
SMALL = (480, 270)
STILL = np.zeros(4, np.float32)


def decode_sound(path) -> np.ndarray:
    """(T,) at 16 kHz, from time 0 as a player would play it."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].time == 0.0
    sound = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return resample_poly(sound, SAMPLE_RATE, frames[0].sample_rate)


def decode_pictures(path) -> list[SimpleNamespace]:
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [SimpleNamespace(index=index, time_s=index / FPS, image=image) for index, image in enumerate(pictures)]


def si_snr(estimate: np.ndarray, reference: np.ndarray) -> float:
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    target = reference * (estimate @ reference) / (reference @ reference)
    return 10 * np.log10((target @ target) / ((estimate - target) @ (estimate - target)))


def mouth_gap(landmarks: np.ndarray) -> np.ndarray:
    """Inner lips, top to bottom, in distances between the outer corners of the eyes: (F, 68, 2) -> (F,)."""
    eyes = np.linalg.norm(landmarks[:, 45] - landmarks[:, 36], axis=-1)
    return np.linalg.norm(landmarks[:, 66] - landmarks[:, 62], axis=-1) / eyes


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The face networks are small: on a busy machine two threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def demo_tracks(one_thread):
    return find_faces(decode_pictures(ASSETS / "demo.mp4"))


def test_the_parts_are_small_enough_to_ship():
    assert (ASSETS / "demo.mp4").stat().st_size <= 1_500_000
    for name in portraits():
        assert (PORTRAITS / f"portrait_{name}.jpg").stat().st_size <= 40_000


def test_sound_track_is_the_sum_of_the_clean_voices_without_delay():
    mixture = np.sum([person.voice for person in demo_people()], axis=0)
    sound = decode_sound(ASSETS / "demo.mp4")[: len(mixture)]
    assert len(sound) == len(mixture)
    assert si_snr(sound, mixture) > 25
    assert sound @ mixture / (mixture @ mixture) == pytest.approx(1.0, abs=0.01)


def test_the_main_path_reads_the_sound_track_without_delay():
    mixture = np.sum([person.voice for person in demo_people()], axis=0)
    with as_file(ASSETS / "demo.mp4") as path:
        sound = load_audio(path)[: len(mixture)]
    assert si_snr(sound, mixture) > 25


def test_both_talk_most_of_the_time_and_equally_loud():
    voices = np.stack([person.voice for person in demo_people()])
    powers_db = 10 * np.log10((voices**2).reshape(2, -1, SAMPLES_PER_FRAME).mean(axis=2) + 1e-12)  # (2, F)
    together = (powers_db > -45).all(axis=0).mean()
    assert together > 0.6
    assert abs(np.diff(10 * np.log10((voices**2).mean(axis=1)))[0]) < 1.0


def test_the_texts_sources_and_licences_travel_with_the_clip():
    demo = json.loads((ASSETS / "demo.json").read_text("utf-8"))
    credits = json.loads((PORTRAITS / "portraits.json").read_text("utf-8"))
    assert len(demo["people"]) == 2
    for person in demo["people"]:
        assert person["text"] and person["voice_licence"]
        assert "public domain" in credits[person["portrait"]]["licence"]


def test_both_people_are_tracked_throughout(demo_tracks):
    assert len(demo_tracks) == 2
    for track in demo_tracks:
        assert track.present.mean() > 0.95
    assert np.nanmean(demo_tracks[0].boxes[:, 0]) < np.nanmean(demo_tracks[1].boxes[:, 0])


def test_measured_mouths_follow_their_own_speech_and_not_the_other(demo_tracks):
    gaps = [np.nan_to_num(mouth_gap(track.landmarks)) for track in demo_tracks]
    meant = [mouth_curves(person.phones, len(gaps[0]))[:, 0] for person in demo_people()]
    for k in range(2):
        assert np.corrcoef(gaps[k], meant[k])[0, 1] > 0.8
        assert np.corrcoef(gaps[k], meant[1 - k])[0, 1] < 0.4


def test_lips_shut_on_bilabials_and_in_silence_and_open_on_vowels():
    for person in demo_people():
        n_frames = len(person.voice) // SAMPLES_PER_FRAME
        opening = mouth_curves(person.phones, n_frames)[:, 0]
        frame_s = (np.arange(n_frames) + 0.5) / FPS
        for phone in person.phones:
            inside = (frame_s > phone.start_s) & (frame_s < phone.stop_s)
            if phone.name in ("p", "b", "m"):
                assert opening[inside].max(initial=0.0) < 0.05, phone
            if phone.name in ("aa", "ae", "ay") and inside.sum() >= 3:
                assert opening[inside].max() > 0.5, phone
        assert opening[frame_s > person.phones[-1].stop_s + 0.1].max(initial=0.0) < 0.01


def test_vowels_round_and_spread_the_lips():
    rounded = mouth_curves((Phone("uw", 0.0, 0.4),), 10)[5]
    spread = mouth_curves((Phone("iy", 0.0, 0.4),), 10)[5]
    puppet = Puppet(load_portrait("hopper"), 480, 540)
    widths = [np.ptp(puppet.landmarks(mouth, STILL)[48:68, 0]) for mouth in (rounded, spread)]
    assert widths[0] < 0.85 * widths[1]


def test_unknown_phone_is_named():
    with pytest.raises(MediaError, match="'xx'"):
        mouth_curves((Phone("xx", 0.0, 0.1),), 5)


@pytest.mark.parametrize("name", portraits())
def test_landmarks_tell_where_the_mouth_is_painted(name):
    """The gap is dark where the landmarks say that the mouth is open, and gone when it is shut."""
    puppet = Puppet(load_portrait(name), 480, 540)
    brightness = []
    for opening in (0.0, 1.0):
        mouth = np.array([opening, 0.0, 0.0], np.float32)
        top, bottom = puppet.landmarks(mouth, STILL)[[62, 66]]
        x, y = np.round(top + 0.45 * (bottom - top)).astype(int)
        brightness.append(puppet.render(mouth, STILL)[y - 2 : y + 3, x - 2 : x + 3].mean())
    assert brightness[1] < 0.6 * brightness[0]


def test_voices_of_a_clip_add_up_to_its_sound(tmp_path):
    first, second = demo_people()
    third = at_pace(replace(first, portrait="blend", start_s=3.0), 0.8)
    clip = build_clip([first, second, third], tmp_path / "three.mp4", duration_s=2.0, size=(720, 270))
    assert clip.voices.shape == (3, 2 * SAMPLE_RATE)
    assert np.abs(clip.mixture).max() <= 0.9 + 1e-6
    assert si_snr(decode_sound(clip.path)[: 2 * SAMPLE_RATE], clip.mixture) > 25


def test_a_voice_starts_again_with_its_mouth(tmp_path):
    person = demo_people()[0]
    length_s = len(person.voice) / SAMPLE_RATE
    clip = build_clip([person], tmp_path / "long.mp4", duration_s=length_s + 2, size=(160, 180))
    n_frames, n_samples = round(2 * FPS), 2 * SAMPLE_RATE
    np.testing.assert_array_equal(clip.voices[0, -n_samples:], clip.voices[0, :n_samples])
    np.testing.assert_allclose(clip.curves[0, -n_frames + 2 :], clip.curves[0, 2:n_frames], atol=0.02)


def test_late_arrival_departure_and_cut_are_seen_as_two_people(tmp_path):
    shots = [Shot(0.0, (0, None)), Shot(1.6, (0, 1)), Shot(3.2, (1,))]
    clip = build_clip(demo_people(), tmp_path / "late.mp4", duration_s=4.8, size=(720, 400), shots=shots)
    assert clip.visible[0].sum() == 80 and clip.visible[1].sum() == 80
    assert not clip.voices[0, 81 * SAMPLES_PER_FRAME :].any()
    assert np.isnan(clip.landmarks[1, :40]).all() and np.isfinite(clip.landmarks[1, 40:]).all()
    tracks = find_faces(decode_pictures(clip.path))
    assert len(tracks) == 2
    for track, visible in zip(tracks, clip.visible, strict=True):
        assert (track.present == visible).mean() > 0.9


def test_offscreen_voice_is_heard_where_asked(tmp_path):
    people = [demo_people()[0], replace(demo_people()[1], heard_offscreen=True)]
    clip = build_clip(people, tmp_path / "off.mp4", duration_s=2.0, size=SMALL, shots=[Shot(0.0, (0, None))])
    assert not clip.visible[1].any() and clip.voices[1].any()


def test_silent_person_and_poster_do_not_move_their_lips(tmp_path):
    poster = replace(demo_people()[1], still=True)
    people = [demo_people()[0], Person("blend"), poster]
    clip = build_clip(people, tmp_path / "poster.mp4", duration_s=2.0, size=(720, 270))
    assert not clip.voices[1].any() and not clip.curves[1:].any()
    tracks = find_faces(decode_pictures(clip.path))
    movement = [mouth_gap(track.landmarks).std() for track in tracks]
    assert len(movement) == 3
    assert movement[0] > 4 * max(movement[1:])


def test_vertical_video(tmp_path):
    shots = [Shot(0.0, (0, 1), stacked=True)]
    clip = build_clip(demo_people(), tmp_path / "phone.mp4", duration_s=1.0, size=(270, 480), shots=shots)
    picture = decode_pictures(clip.path)[0].image
    assert picture.shape == (480, 270, 3)
    assert np.nanmax(clip.landmarks[0, ..., 1]) < 240 < np.nanmin(clip.landmarks[1, ..., 1])


@pytest.mark.parametrize(
    ("shots", "message"),
    [
        ([Shot(1.0, (0,))], "first must start at 0"),
        ([Shot(0.0, (0,)), Shot(2.0, (0,)), Shot(1.0, (0,))], "in order of time"),
        ([Shot(0.0, (0, 5))], "person 5"),
    ],
)
def test_impossible_shots_are_refused(tmp_path, shots, message):
    with pytest.raises(MediaError, match=message):
        build_clip(demo_people(), tmp_path / "no.mp4", duration_s=3.0, shots=shots)
    assert not list(tmp_path.iterdir())


def test_unknown_portrait_lists_the_known():
    with pytest.raises(MediaError, match="blend, collins, hopper"):
        load_portrait("mona_lisa")
