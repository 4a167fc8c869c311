"""Lip pictures: head movement must not show in them, speech must; absence is neutral; nothing is left behind."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from lipsep.errors import FaceError, ModelError, OutputError
from lipsep.faces.tracks import FaceTrack
from lipsep.lips.drawing import draw_mouth
from lipsep.lips.pose import MEAN_FACE, STABLE_POINTS
from lipsep.lips.reading import extract_lips
from lipsep.lips.recipes import LIP_RECIPES, lip_recipe, normalise_picture
from lipsep.lips.shape import MESH_WIDTH, RESTING_MOUTH, impersonal_mouth, normalise_mouth
from lipsep.system.spool import Spool

CENTRE = np.array([129.3, 157.8])  # of the mouth on the mean face


@dataclass
class Picture:
    image: np.ndarray


def talking(n_frames: int, opening: np.ndarray | float = 4.0) -> np.ndarray:
    """Landmarks (F, 68, 2) of a motionless mean face whose lips part by `opening` px."""
    opening = np.broadcast_to(opening, n_frames)
    points = np.full((n_frames, 68, 2), 128.0)
    points[:, STABLE_POINTS] = MEAN_FACE
    for first, count, wide, high in ((48, 12, 22, 8), (60, 8, 18, 0)):
        angle = np.pi + 2 * np.pi * np.arange(count) / count
        points[:, first : first + count, 0] = CENTRE[0] + wide * np.cos(angle)
        points[:, first : first + count, 1] = CENTRE[1] + np.sin(angle) * (high + opening[:, None] / 2)
    return points


def move(points: np.ndarray, scale: np.ndarray, angle: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Turn, scale and shift the face in every frame."""
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    return np.einsum("fij,fkj->fki", scale[:, None, None] * turn, points) + shift[:, None]


def track_of(landmarks: np.ndarray, present: np.ndarray | None = None) -> FaceTrack:
    present = np.ones(len(landmarks), bool) if present is None else present
    landmarks = np.where(present[:, None, None], landmarks, np.nan).astype(np.float32)
    boxes = np.concatenate([landmarks.min(1), landmarks.max(1)], 1)
    return FaceTrack(1, present, boxes, landmarks, np.zeros((96, 96, 3), np.uint8))


def test_head_movement_does_not_move_the_mouth():
    n_frames = 150
    time = np.arange(n_frames) / 25
    opening = 6 + 5 * np.sin(2 * np.pi * 3 * time)
    still = talking(n_frames, opening)
    moved = move(
        still,
        scale=1.3 + 0.2 * np.sin(time),
        angle=0.3 * np.sin(2 * time),
        shift=np.stack([300 + 80 * np.sin(3 * time), 200 + 40 * np.sin(5 * time)], -1),
    )
    everywhere = np.ones(n_frames, bool)
    expected, found = normalise_mouth(still, everywhere), normalise_mouth(moved, everywhere)
    assert np.abs(found - expected).max() < 0.03  # of the picture; the head moves by more than its width
    gap = (found[:, 18, 1] - found[:, 14, 1]) * MESH_WIDTH
    assert np.corrcoef(gap, opening)[0, 1] > 0.995
    assert gap.min() > 0  # the closed mouth is closed


def test_size_and_place_of_the_face_do_not_matter():
    still, everywhere = talking(40, 5), np.ones(40, bool)
    ones = np.ones(40)
    far = move(still, 0.4 * ones, 0.2 * ones, np.tile([500.0, -30.0], (40, 1)))
    np.testing.assert_allclose(normalise_mouth(far, everywhere), normalise_mouth(still, everywhere), atol=1e-4)


def test_a_cut_does_not_smear():
    before, after = talking(30, 3), move(talking(30, 3), *(np.full(30, x) for x in (2.0, 0.0)), np.full((30, 2), 250.0))
    both = np.concatenate([before, after])
    found = normalise_mouth(both, np.ones(60, bool))
    np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), atol=1e-4)
    zoom = np.concatenate([before, move(before, np.full(30, 2.5), np.zeros(30), np.full((30, 2), -1.5 * 128))])
    found = normalise_mouth(zoom, np.ones(60, bool))
    np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), atol=1e-4)


def test_short_gaps_are_filled_and_long_ones_neutral():
    present = np.ones(100, bool)
    present[10:15] = False  # 0.2 s
    present[40:46] = False  # longer
    present[95:] = False
    (lips,) = extract_lips([track_of(talking(100), present)], None, lip_recipe("mesh_32"))
    assert lips.n_frames == 100
    np.testing.assert_array_equal(np.flatnonzero(~lips.valid), [*range(40, 46), *range(95, 100)])
    pictures = lips.read(0, 100)
    assert pictures.shape == (100, 32, 32) and pictures.dtype == np.float32
    assert (pictures[~lips.valid] == 0).all()
    np.testing.assert_allclose(pictures[12], pictures[0], atol=0.05)
    np.testing.assert_array_equal(lips.read(30, 50), pictures[30:50])
    assert lips.read(7, 7).shape == (0, 32, 32)
    with pytest.raises(ValueError, match="100"):
        lips.read(90, 101)


def test_a_face_that_never_shows_has_no_mouth():
    with pytest.raises(FaceError, match="no frame"):
        normalise_mouth(talking(5), np.zeros(5, bool))


@pytest.mark.parametrize("size", [32, 88])
def test_drawn_mouths_show_how_far_they_are_open(size):
    opening = np.array([0.0, 0.5, 1.0, 3.0, 8.0, 20.0])
    points = (talking(6, opening)[:, 48:] - CENTRE) / MESH_WIDTH + 0.5
    pictures = draw_mouth(points, size)
    assert pictures.shape == (6, size, size) and pictures.dtype == np.uint8
    middle = pictures[:, :, size // 2].astype(float)
    darkness = (middle.max() - middle).sum(1)
    assert (np.diff(darkness) > 0).all()  # half a pixel of the mean face already shows
    assert pictures.min() < 40 and (pictures[:, 0, 0] > 140).all()
    mirrored = draw_mouth(points * [-1, 1] + [1, 0], size)
    assert np.abs(mirrored[:, :, ::-1].astype(int) - pictures).mean() < 2


def test_drawn_mouths_may_leave_the_picture():
    points = (talking(3)[:, 48:] - CENTRE) / MESH_WIDTH + 0.5
    assert draw_mouth(points + np.array([0.7, -0.6]), 32).shape == (3, 32, 32)
    assert len(np.unique(draw_mouth(points + 40.0, 32))) == 1


def test_pixel_crops_follow_the_recipe_of_the_field():
    """A known face picture, filmed by a moving camera, must come back upright and in place."""
    rng = np.random.default_rng(0)
    canvas = cv2.GaussianBlur(rng.uniform(0, 255, (256, 256)).astype(np.float32), (0, 0), 5)
    canvas = cv2.normalize(canvas, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    points = talking(1)
    centre = np.round(points[0, 48:].mean(0)).astype(int)
    expected = canvas[centre[1] - 44 : centre[1] + 44, centre[0] - 44 : centre[0] + 44]
    n_frames = 20
    scale, angle = np.full(n_frames, 1.4), np.full(n_frames, 0.25)
    shift = np.tile([200.0, 60.0], (n_frames, 1))
    turn = 1.4 * np.array([[np.cos(0.25), -np.sin(0.25)], [np.sin(0.25), np.cos(0.25)]])
    image = cv2.warpAffine(canvas, np.column_stack([turn, shift[0]]), (640, 480), flags=cv2.INTER_CUBIC)
    track = track_of(move(np.repeat(points, n_frames, 0), scale, angle, shift))
    (lips,) = extract_lips([track], [Picture(image)] * n_frames, lip_recipe("mouth_88"))
    with lips:
        pictures = lips.read(0, n_frames)
    assert pictures.shape == (n_frames, 88, 88)
    difference = np.abs(pictures - normalise_picture(expected))
    assert difference.max() < 0.35 and difference.mean() < 0.03  # of a contrast of 1 / 0.165 = 6


def test_pixel_crops_use_this_frame_and_the_next_eleven():
    """The window looks ahead: a head that nods in frame 20 is prepared for from frame 9, not before."""
    landmarks = talking(40)
    landmarks[20:] += [3.0, 0.0]
    x = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    (lips,) = extract_lips([track_of(landmarks)], [Picture(x)] * 40, lip_recipe("mouth_88"))
    pictures = lips.read(0, 40)
    shift = (pictures - pictures[0]).mean((1, 2)) * 0.165 * 255  # px by which the crop moved to the right
    np.testing.assert_allclose(shift[:9], 0, atol=0.1)
    np.testing.assert_allclose(shift[20:], 3, atol=0.6)


def test_two_people_and_absence_in_pixel_crops(tmp_path):
    present = np.ones(30, bool)
    present[10:20] = False
    tracks = [track_of(talking(30)), track_of(talking(30) + np.array([60.0, 30.0]), present)]
    image = np.random.default_rng(0).integers(0, 256, (300, 400), dtype=np.uint8)
    frames = iter([Picture(image)] * 31)
    first, second = extract_lips(tracks, frames, lip_recipe("mouth_88"), tmp_path)
    assert next(frames, None) is not None  # no more frames are taken than needed
    assert first.valid.all() and (second.read(10, 20) == 0).all() and (second.read(9, 10) != 0).any()
    assert np.abs(first.read(0, 1) - second.read(0, 1)).mean() > 0.1


def test_temporary_files_vanish(tmp_path):
    (lips,) = extract_lips(
        [track_of(talking(30))], [Picture(np.zeros((300, 300), np.uint8))] * 30, lip_recipe("mouth_88"), tmp_path
    )
    assert lips.read(0, 30).shape == (30, 88, 88)
    del lips
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="mesh_32"):
        lip_recipe("mouth_96")
    track = track_of(talking(30))
    with pytest.raises(FaceError, match="needs the video's frames"):
        extract_lips([track], None, lip_recipe("mouth_88"))
    with pytest.raises(FaceError, match="gave 7 frames"):
        extract_lips([track], [Picture(np.zeros((300, 300), np.uint8))] * 7, lip_recipe("mouth_88"))
    with pytest.raises(OutputError, match="cannot keep"):
        extract_lips([track], [Picture(np.zeros((300, 300), np.uint8))] * 30, lip_recipe("mouth_88"), tmp_path / "none")


def test_nobody_gives_no_lips():
    assert all(extract_lips([], iter([]), recipe) == [] for recipe in LIP_RECIPES.values())


def test_two_people_with_the_same_motion_look_the_same():
    rng = np.random.default_rng(0)
    motion = np.cumsum(rng.normal(0, 0.004, (75, 20, 2)), axis=0)
    thin, broad = RESTING_MOUTH + motion, 1.2 * RESTING_MOUTH + 0.03 + 1.5 * motion
    np.testing.assert_allclose(impersonal_mouth(thin), impersonal_mouth(broad), atol=1e-5)


def test_noise_on_a_resting_mouth_is_not_made_into_talking():
    noise = np.random.default_rng(0).normal(0, 1e-4, (75, 20, 2))
    assert np.abs(impersonal_mouth(RESTING_MOUTH + noise) - RESTING_MOUTH).max() < 2.5 * np.abs(noise).max()


def lively(n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of a talking head that sways, with a cut, short gaps and a long absence; and when it is present."""
    rng = np.random.default_rng(0)
    time_s = np.arange(n_frames) / 25
    places = talking(n_frames, 4 + 4 * np.sin(9 * time_s))
    places = move(
        places, 1 + 0.1 * np.sin(time_s), 0.2 * np.sin(0.7 * time_s), np.cumsum(rng.normal(0, 0.5, (n_frames, 2)), 0)
    )
    places += rng.normal(0, 0.2, places.shape)
    places[n_frames // 2 :] += 150
    present = np.ones(n_frames, bool)
    for start, length in ((37, 3), (60, 5), (98, 4), (150, 20)):
        present[start : start + length] = False
    return places, present


@pytest.mark.parametrize("recipe", ["mouth_88", "points_8"])
def test_long_videos_are_worked_through_in_pieces_that_do_not_show(recipe, monkeypatch):
    places, present = lively(400)
    image = cv2.resize(np.random.default_rng(1).integers(0, 256, (30, 40), dtype=np.uint8), (400, 300))
    frames = [Picture(image)] * 400
    (whole,) = extract_lips([track_of(places, present)], frames, lip_recipe(recipe))
    monkeypatch.setattr("lipsep.lips.pose.PIECE", 40)
    (pieces,) = extract_lips([track_of(places, present)], frames, lip_recipe(recipe))
    assert (whole.valid == pieces.valid).all() and 0 < whole.valid.sum() < 400
    grey = 1 / 255 / 0.165  # rounding may fall the other way
    np.testing.assert_allclose(pieces.read(0, 400), whole.read(0, 400), atol=1.01 * grey)


def test_hours_of_landmarks_take_no_more_memory_than_minutes():
    def most_mib(n_frames: int) -> float:
        """What the lips of a track take that lies in a file, as `find_faces` leaves it."""
        landmarks, minute = Spool((68, 2)), lively(1500)[0]
        for _ in range(n_frames // 1500):
            landmarks.append(minute)
        track = FaceTrack(1, np.ones(n_frames, bool), np.zeros((n_frames, 4)), landmarks.mapped(), np.zeros((8, 8, 3)))
        tracemalloc.start()
        (lips,) = extract_lips([track], None, lip_recipe("points_8"))
        assert lips.valid.all() and track.mouth_motion > 0.01
        return tracemalloc.get_traced_memory()[1] / 2**20

    try:
        short, long = most_mib(15_000), most_mib(60_000)  # 10 and 40 minutes; all landmarks of the latter are 31 MiB
    finally:
        tracemalloc.stop()
    assert long < short + 8
