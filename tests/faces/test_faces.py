"""Who is visible when: the networks against their originals, and tracks in scenes whose truth is known.

The scenes are made of the portraits in scripts/portraits, moved over a plain background.
"""

from __future__ import annotations

import itertools
import weakref

import cv2
import numpy as np
import pytest
import torch
from portraits import HEIGHT, WIDTH, Picture, portrait, scene, where

from lipsep.errors import FaceError
from lipsep.faces.detection import FaceDetector, Region, overlap, warp
from lipsep.faces.nets import load_face_nets
from lipsep.faces.tracking import Tracker
from lipsep.faces.tracks import find_faces


def name_of(track, truth: dict[str, list[np.ndarray | None]]) -> dict[str, int]:
    """In how many frames the track lies on each of the people."""
    found = dict.fromkeys(truth, 0)
    for frame in np.flatnonzero(track.present):
        for name, places in truth.items():
            place = places[frame]
            if place is not None:
                box = np.concatenate([place.min(0), place.max(0)])
                found[name] += bool(overlap(box, track.boxes[frame][None])[0] > 0.5)
    return found


def test_networks_agree_with_tensorflow_lite():
    # expected values: scripts/convert_face_weights.py --check, TensorFlow Lite (LiteRT 2.3.0) on the same picture
    y, x = np.meshgrid(np.arange(192), np.arange(192), indexing="ij")
    picture = np.stack([np.sin(x / 17 + k) * np.cos(y / (23 + 4 * k)) for k in range(3)]).astype(np.float32)[None]
    blazeface, facemesh = load_face_nets()
    with torch.inference_mode():
        scores, boxes = blazeface(torch.from_numpy(picture))
        points, score = facemesh(torch.from_numpy((picture + 1) / 2))
    expected = {
        "scores": (scores, [-7.00301, -3.26058, -3.68491, -3.12605, -3.87101, -6.71477, -5.26573, -6.62856]),
        "boxes": (boxes, [-3.11197, 20.10693, -5.94732, 6.56847, -1.17229, 2.55608, -16.73082, -2.23085]),
        "points": (points, [105.78712, -21.63433, 81.43278, 151.25060, 111.85532, 135.44698, 25.47037, 6.67679]),
        "score": (score, [-6.24723]),
    }
    for name, (ours, theirs) in expected.items():
        flat = ours.ravel()
        chosen = flat[np.linspace(0, len(flat) - 1, len(theirs)).astype(int)].numpy()
        np.testing.assert_allclose(chosen, theirs, rtol=0, atol=3e-4, err_msg=name)


@pytest.mark.parametrize("turn_deg", [0, 25])
def test_landmarks_lie_where_they_were_marked(turn_deg):
    for name in ("hopper", "collins"):
        image, marked = portrait(name)
        centre = marked.mean(0)
        affine = cv2.getRotationMatrix2D(centre.tolist(), turn_deg, 1)
        image = cv2.warpAffine(image, affine, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        marked = marked @ affine[:, :2].T + affine[:, 2]
        (track,) = find_faces([Picture(image)])
        error = np.linalg.norm(track.landmarks[0] - marked, axis=-1) / np.linalg.norm(marked[36] - marked[45])
        assert error[17:].mean() < 0.08  # in distances between the eyes; the jaw is a matter of convention
        assert track.thumbnail.shape == (192, 192, 3)


def test_two_people_are_followed_in_every_frame_from_left_to_right():
    frames, truth = [], {"hopper": [], "collins": []}
    for k in range(30):
        a, b = ("hopper", 20 + k, 60 + 10 * np.sin(k / 3)), ("collins", 330 - k / 2, 70)
        frames.append(scene(b, a))
        truth["hopper"].append(where(*a))
        truth["collins"].append(where(*b))
    tracks = find_faces(frames)
    assert [track.person for track in tracks] == [1, 2]
    for track, name in zip(tracks, ("hopper", "collins"), strict=True):
        assert track.present.all()
        assert name_of(track, truth)[name] == 30
        # the face moves, its landmarks move with it: what is left are fractions of a pixel
        drift = (track.landmarks - np.stack(truth[name]))[:, 17:].mean(1)
        assert np.abs(drift - drift.mean(0)).max() < 1.5


def test_late_arrivals_and_absences():
    alone, both = scene(("hopper", 350, 50)), scene(("collins", 20, 50), ("hopper", 350, 50))
    hopper, collins = find_faces([scene()] * 5 + [alone] * 27 + [both] * 20 + [alone] * 3)
    np.testing.assert_array_equal(np.flatnonzero(hopper.present), np.arange(5, 55))
    seen = np.flatnonzero(collins.present)
    assert 32 <= seen[0] < 37 and seen[-1] == 51
    assert np.isnan(collins.landmarks[~collins.present]).all() and np.isfinite(collins.landmarks[collins.present]).all()
    assert np.isnan(collins.boxes[~collins.present]).all()


def test_a_person_who_returns_elsewhere_is_the_same_person():
    frames = [scene(("hopper", 20, 50), ("collins", 350, 50))] * 15 + [scene(("collins", 350, 50))] * 25
    frames += [scene(("hopper", 180, 80), ("collins", 380, 50))] * 15
    hopper, collins = find_faces(frames)
    assert hopper.present.sum() == 30 and collins.present.sum() == 55


def test_cuts_between_close_ups_keep_who_is_who():
    wide = scene(("hopper", 20, 50), ("collins", 350, 50))
    close = {name: scene((name, 150, 0), size=340) for name in ("hopper", "collins")}
    frames = [wide] * 10 + [close["collins"]] * 20 + [close["hopper"]] * 20 + [wide] * 10
    hopper, collins = find_faces(frames)
    np.testing.assert_array_equal(np.flatnonzero(~hopper.present), np.arange(10, 30))
    np.testing.assert_array_equal(np.flatnonzero(~collins.present), np.arange(30, 50))


def test_two_people_in_the_same_place_after_a_cut_are_two():
    shots = {name: scene((name, 150, 20), size=330) for name in ("hopper", "collins")}
    hopper, collins = find_faces([shots["hopper"]] * 15 + [shots["collins"]] * 15 + [shots["hopper"]] * 15)
    np.testing.assert_array_equal(hopper.present, [True] * 15 + [False] * 15 + [True] * 15)
    np.testing.assert_array_equal(collins.present, ~hopper.present)


def test_people_who_cross_keep_their_tracks():
    frames, truth = [], {"hopper": [], "collins": []}
    for k in range(70):
        a, b = ("hopper", -10 + 6 * k, 40), ("collins", 400 - 6 * k, 40)
        frames.append(scene(b, a))
        truth["hopper"].append(where(*a))
        truth["collins"].append(where(*b))
    tracks = find_faces(frames)
    assert len(tracks) == 2
    for track, name in zip(tracks, ("hopper", "collins"), strict=True):
        found = name_of(track, truth)
        assert found[name] >= 0.95 * track.present.sum()
        assert track.present[:15].all() and track.present[-10:].all()


def test_a_hidden_face_is_absent_and_comes_back():
    seen, hidden = scene(("hopper", 150, 50)), scene()
    (track,) = find_faces([seen] * 15 + [hidden] * 6 + [seen] * 15)
    assert not track.present[15:21].any()
    assert track.present[:15].all() and track.present[21:].all()


def test_passers_by_are_left_out_unless_asked_for():
    frames = [scene(("hopper", 20, 50))] * 40 + [scene(("hopper", 20, 50), ("collins", 350, 50))] * 8
    assert len(find_faces(frames)) == 1
    assert [int(track.present.sum() > 40) for track in find_faces(frames, speakers=2)] == [1, 0]
    many = [scene(("collins", 350, 50))] * 5 + [scene(("hopper", 20, 50), ("collins", 350, 50))] * 20
    (most,) = find_faces(many, speakers=1)
    assert most.present.all()  # collins, who is there for longer


def test_nobody():
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert find_faces([]) == []
    assert find_faces([scene(), Picture(noise), scene()]) == []


@pytest.mark.parametrize("shape", [(1, 1), (2, 3000), (640, 360), (2160, 3840), (37, 53)])
def test_pictures_of_any_shape(shape):
    assert find_faces([Picture(np.full((*shape, 3), 128, np.uint8))] * 2) == []


def test_vertical_and_large_pictures():
    (track,) = find_faces([scene(("hopper", 50, 300), height=640, width=360)] * 2)
    assert track.present.all()
    (track,) = find_faces([scene(("hopper", 1500, 300), height=2160, width=3840, size=1500)] * 2)
    error = np.linalg.norm(track.landmarks[0] - where("hopper", 1500, 300, 1500), axis=-1)
    assert error[17:].mean() < 0.04 * 1500 / 2


def test_the_size_of_the_picture_may_change():
    frames = [scene(("hopper", 20, 20))] * 3 + [scene(("hopper", 20, 20), height=300, width=300)] * 3
    (track,) = find_faces(frames)
    assert track.present.all()


def test_face_scale_finds_smaller_faces():
    small = [scene(("hopper", 900, 400), height=1080, width=1920, size=80)] * 2
    assert find_faces(small) == []
    (track,) = find_faces(small, face_scale=2)
    error = np.linalg.norm(track.landmarks[0] - where("hopper", 900, 400, 80), axis=-1)
    assert error[17:].mean() < 2
    large = [scene(("hopper", 0, 0), height=300, width=260)] * 2
    assert len(find_faces(large, face_scale=3)) == 1


def test_a_still_picture_has_a_still_mouth():
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(20):
        image = scene(("hopper", 150, 50)).image + rng.normal(0, 4, (HEIGHT, WIDTH, 3))
        frames.append(Picture(image.clip(0, 255).astype(np.uint8)))
    (track,) = find_faces(frames)
    assert track.mouth_motion < 0.01


def test_pictures_are_not_kept():
    alive: list[weakref.ref] = []

    def frames():
        for k in range(12):
            picture = scene(("hopper", 100 + k, 50))
            alive.append(weakref.ref(picture))
            yield picture
            del picture
            assert sum(ref() is not None for ref in alive) <= 1

    n_threads = torch.get_num_threads()
    (track,) = find_faces(frames())
    assert track.present.all() and track.thumbnail.base is None
    assert torch.get_num_threads() == n_threads


def test_passing_crowds_are_forgotten():
    tracker = Tracker(detect_every_n=25)
    for picture in (scene(("hopper", 150, 50)), scene(), scene(("collins", 150, 50)), scene()):
        tracker.step(picture.image)  # each a cut
    assert len(tracker.people) == 2
    nobody = scene(height=40, width=60).image
    for _ in range(11 * 25):
        tracker.step(nobody)
    assert tracker.people == []


def test_progress_is_told():
    told = []
    find_faces([scene()] * 3, n_frames=3, hook=lambda *args: told.append(args))
    assert told == [("faces", 1, 3), ("faces", 2, 3), ("faces", 3, 3)]


@pytest.mark.parametrize("wrong", [{"speakers": 0}, {"detect_every_n": 0}, {"face_scale": 0.0}])
def test_impossible_requests_are_refused(wrong):
    with pytest.raises(FaceError, match=next(iter(wrong))):
        find_faces([scene()], **wrong)


def test_warp_shrinks_without_aliasing_and_in_place():
    y, x = np.meshgrid(np.arange(400), np.arange(600), indexing="ij")
    ramp = (x / 600 * 200).astype(np.float32)
    region = Region(310.0, 190.0, 240.0, 0.3)
    crop = warp(ramp, region.to_picture(40), 40)
    u, v = np.meshgrid(np.arange(40), np.arange(40))
    affine = region.to_picture(40)
    expected = (affine[0, 0] * u + affine[0, 1] * v + affine[0, 2]) / 600 * 200
    np.testing.assert_allclose(crop, expected, atol=0.1)
    stripes = (((x + y) % 2) * 255).astype(np.uint8)
    assert np.ptp(warp(stripes, region.to_picture(40), 40)) <= 2


@pytest.mark.parametrize("name", ["two_people_interview_720p.mp4", "two_people_studio_1080p.mp4"])
@pytest.mark.slow
def test_both_people_of_real_footage_are_seen_in_every_frame(shared, name):
    av = pytest.importorskip("av")
    with av.open(str(shared / "media" / name)) as container:
        decoded = itertools.islice(container.decode(video=0), 150)
        tracks = find_faces(Picture(frame.to_ndarray(format="rgb24")) for frame in decoded)
    assert len(tracks) == 2
    assert all(track.present.all() for track in tracks)
    assert np.nanmean(tracks[0].boxes[:, 0]) < np.nanmean(tracks[1].boxes[:, 0])


def test_detector_gives_each_face_once():
    image = scene(("hopper", 20, 50), ("collins", 350, 50)).image
    assert len(FaceDetector().detect(image)) == 2
