"""Films that lie on their side or stand on their head, galleries, and faces that are seen for a moment only."""

from __future__ import annotations

import numpy as np
import pytest
from portraits import Picture, film, scene

from lipsep.errors import FaceError
from lipsep.faces.tracks import find_faces, reading_order
from lipsep.faces.turns import turn_that_shows_faces
from lipsep.media.reading import read_frames
from lipsep.separator import Separator

SEEN = scene(("hopper", 100, 50))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_turn_that_shows_faces_is_found(degrees):
    lying = np.rot90(SEEN.image, -degrees // 90)
    assert turn_that_shows_faces([lying] * 3) == degrees
    assert turn_that_shows_faces([np.full((200, 300, 3), 99, np.uint8)] * 3) == 0


def test_a_film_on_its_head_is_separated_and_its_voices_come_with_upright_pictures(tmp_path, model_folder):
    path = film(tmp_path / "head.mp4", [SEEN.image[::-1, ::-1]] * 30)
    result = Separator(model_folder)(path, tmp_path / "out")
    assert [t.person for t in result.tracks] == [1]
    assert any("turned by 180 degrees" in warning for warning in result.report["warnings"])
    upright = next(read_frames(tmp_path / "out" / "speaker_1.mp4")).image
    assert upright.shape == SEEN.image.shape and np.abs(upright.astype(int) - SEEN.image).mean() < 8
    with pytest.raises(FaceError, match="no face in 30 frames"):
        Separator(model_folder)(path, rotate=0)


def test_a_face_of_a_moment_is_named_with_its_time_and_can_be_asked_for():
    frames = [scene()] * 20 + [SEEN] * 10 + [scene()] * 20
    with pytest.raises(FaceError, match=r"visible, but for 0\.4 s at most, and at least 0\.5 s .*--min-visible-s 0\.4"):
        find_faces(frames)
    (track,) = find_faces(frames, min_visible_s=0.4)
    assert track.present.sum() == pytest.approx(10, abs=1)
    with pytest.raises(FaceError, match=r"0\.4 s at most"):  # also when it was long ago
        find_faces([SEEN] * 10 + [Picture(scene().image)] * 300)


def box(x: float, y: float, size: float = 1.0) -> tuple[float, float, float, float]:
    return (x - size / 2, y - size / 2, x + size / 2, y + size / 2)


@pytest.mark.parametrize(
    ("boxes", "order"),
    [
        ([box(4, 4), box(0, 0), box(2, 4.2), box(2, 0.2), box(0.1, 4), box(4, -0.2)], [1, 3, 5, 4, 2, 0]),  # 2 x 3
        ([box(0.2, 3), box(0, 0)], [1, 0]),  # one above the other
        ([box(3, 0), box(0, 2)], [1, 0]),  # an adult and a child side by side: from left to right
        ([box(1, 0, 3), box(-3, 0.5), box(5, 0)], [1, 0, 2]),
    ],
)
def test_galleries_are_read_like_a_page_and_rooms_from_left_to_right(boxes, order):
    assert reading_order(np.array(boxes)) == order
