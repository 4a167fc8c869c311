"""Who speaks when, from voices that hold a rest of the others and lips that also move in pauses."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from pyannote.core import Annotation
from pyannote.core import Segment as Stretch
from pyannote.database.util import load_rttm
from pyannote.metrics.diarization import DiarizationErrorRate

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.faces.tracks import FaceTrack
from lipsep.results.speech import Segment, audacity_labels, find_speech, rttm, table
from lipsep.system.spool import Spool

TURNS_S = [[(0.5, 3.0), (7.0, 9.0)], [(4.0, 6.0), (8.0, 10.5)]]  # the last of them overlap
DURATION_S = 12
NAMES = {1: "Anna Berg", 2: "person 2"}


def voice_of(turns_s, rng) -> np.ndarray:
    """Noise with syllables in these turns, float32 (T,)."""
    t = np.arange(DURATION_S * SAMPLE_RATE) / SAMPLE_RATE
    on = np.zeros(len(t), bool)
    for start_s, end_s in turns_s:
        on |= (t >= start_s) & (t < end_s)
    return (0.1 * rng.normal(size=len(t)) * np.abs(np.sin(2 * np.pi * 2 * t)) * on).astype(np.float32)


def track_of(person: int, turns_s, rng, moves: bool = True) -> FaceTrack:
    """A face whose lips open four times a second while it speaks, and tremble always."""
    t = np.arange(DURATION_S * FPS) / FPS
    on = sum(((t >= a) & (t < b)).astype(float) for a, b in turns_s) if turns_s else np.zeros(len(t))
    landmarks = np.zeros((len(t), 68, 2), np.float32)
    landmarks[:, 45, 0] = 60  # px between the outer eye corners
    gap = 6 * moves * on * np.abs(np.sin(2 * np.pi * 2 * t)) + rng.normal(0, 0.05, len(t))
    for below in (67, 66, 65):
        landmarks[:, below, 1] = gap
    return FaceTrack(person, np.ones(len(t), bool), np.zeros((len(t), 4)), landmarks, np.zeros((2, 2, 3), np.uint8))


def spool_of(voice: np.ndarray) -> Spool:
    spool = Spool()
    spool.append(voice)
    return spool


def found_in(turns_s, leak_db: float) -> list[Segment]:
    rng = np.random.default_rng(0)
    clean = np.stack([voice_of(turns, rng) for turns in turns_s])
    leak = 10 ** (leak_db / 20)
    mixed = [own + leak * (clean.sum(0) - own) for own in clean]  # a rest of the others in everybody's voice
    tracks = [track_of(k, turns, rng) for k, turns in enumerate(turns_s, 1)]
    return find_speech(tracks, [spool_of(voice) for voice in mixed], DURATION_S * SAMPLE_RATE)


def annotation(turns: list[tuple[float, float, str]]) -> Annotation:
    found = Annotation()
    for k, (start_s, end_s, name) in enumerate(turns):
        found[Stretch(start_s, end_s), k] = name
    return found


TRUTH = annotation([(a, b, str(person)) for person, turns in enumerate(TURNS_S, 1) for a, b in turns])


@pytest.mark.parametrize("leak_db", [-40, -12, -6])
def test_turns_are_found_although_voices_leak(leak_db):
    found = annotation([(s.start_s, s.end_s, str(s.person)) for s in found_in(TURNS_S, leak_db)])
    assert DiarizationErrorRate()(TRUTH, found) < 0.15


def test_who_never_speaks_has_no_speech_and_pauses_are_nobodys():
    found = found_in([TURNS_S[0], []], leak_db=-8)
    assert {each.person for each in found} == {1}
    assert not [each for each in found if each.start_s < 5 < each.end_s]


def test_a_pause_between_words_is_bridged_and_a_click_is_no_speech():
    rng = np.random.default_rng(1)
    voice = voice_of([(1.0, 2.0), (2.2, 3.0)], rng)
    voice[6 * SAMPLE_RATE : 6 * SAMPLE_RATE + 160] = 0.3
    found = find_speech([track_of(1, [(1.0, 3.0)], rng)], [spool_of(voice)], len(voice))
    assert [(each.start_s, each.end_s) for each in found] == [(pytest.approx(1, abs=0.2), pytest.approx(3, abs=0.25))]


def test_speech_ends_with_the_sound():
    rng = np.random.default_rng(2)
    voice = voice_of([(1.0, 12.0)], rng)[: round(5.3 * SAMPLE_RATE)]
    (segment,) = find_speech([track_of(1, [(1.0, 12.0)], rng)], [spool_of(voice)], len(voice))
    assert segment.end_s == pytest.approx(5.3, abs=1e-3)


SEGMENTS = [Segment(1, 0.52, 3.0), Segment(2, 4.04, 6.0)]


def test_rttm_is_read_by_the_tools_that_score_it(tmp_path):
    path = tmp_path / "who.rttm"
    path.write_text(rttm(SEGMENTS, "my talk", NAMES), encoding="utf-8")
    read = load_rttm(path)["my_talk"]
    assert [(s.start, s.end, name) for s, _, name in read.itertracks(yield_label=True)] == [
        (pytest.approx(0.52), pytest.approx(3.0), "Anna_Berg"),
        (pytest.approx(4.04), pytest.approx(6.0), "person_2"),
    ]


def test_labels_and_table_hold_every_stretch():
    assert audacity_labels(SEGMENTS, NAMES).splitlines()[0] == "0.520000\t3.000000\tAnna Berg"
    rows = list(csv.DictReader(table(SEGMENTS, {**NAMES, 2: 'Ben, "B"'}).splitlines()))
    assert [(row["person"], row["name"], float(row["start_s"])) for row in rows] == [
        ("1", "Anna Berg", 0.52),
        ("2", 'Ben, "B"', 4.04),
    ]
