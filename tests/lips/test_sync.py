"""Lips and sound that are apart: found, corrected where that is sure, left alone elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.lips.pictures import DrawnLips
from lipsep.lips.recipes import lip_recipe
from lipsep.lips.sync import CONFIDENT, Offset, ShiftedLips, asked_offset, envelope, offset_of


def talk(seconds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A voice (T,) whose loudness follows lips (F,) that open and close by chance a few times a second, with noise."""
    rng = np.random.default_rng(seed)
    knots = rng.random(seconds * 5)
    opening = np.interp(np.arange(seconds * FPS) / FPS, np.arange(len(knots)) / 5, knots)
    loudness = np.interp(np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE, np.arange(len(knots)) / 5, knots)
    voice = (
        np.exp(4 * loudness) / 500 * rng.standard_normal(len(loudness)) * rng.choice([0.7, 1.4], seconds).repeat(16_000)
    )
    return voice.astype(np.float32), opening + 0.1 * rng.standard_normal(len(opening))


def found(voices: list[np.ndarray], openings: list[np.ndarray], later_ms: int) -> Offset:
    later = later_ms * SAMPLE_RATE // 1000
    mixture = np.roll(sum(voices), later)
    known = [np.ones(len(opening), bool) for opening in openings]
    return offset_of(openings, known, envelope(lambda start, stop: mixture[start:stop], len(mixture)))


@pytest.mark.parametrize("later_ms", [-200, -120, 80, 160])
def test_sound_that_is_late_or_early_is_found_and_corrected_for_one_and_for_two(later_ms):
    people = [talk(30, seed) for seed in (1, 2)]
    for n in (1, 2):
        offset = found([voice for voice, _ in people[:n]], [lips for _, lips in people[:n]], later_ms)
        assert offset.confidence >= CONFIDENT and offset.found_ms == pytest.approx(later_ms, abs=30)
        assert offset.corrected_ms == pytest.approx(later_ms, abs=40) and offset.n_frames == offset.corrected_ms / 40


def test_what_is_in_sync_too_short_or_foreign_is_left_alone():
    voice, lips = talk(30, 1)
    assert found([voice], [lips], 0).corrected_ms == found([voice], [lips], 40).corrected_ms == 0
    assert found([voice[: 2 * SAMPLE_RATE]], [lips[: 2 * FPS]], 160).corrected_ms == 0
    assert all(found([talk(30, seed)[0]], [lips], 0).corrected_ms == 0 for seed in range(2, 22))
    assert found([np.zeros_like(voice)], [lips], 0) == Offset()


def test_what_is_asked_for_is_done_in_whole_pictures():
    assert asked_offset("auto") is None
    assert asked_offset("off") == Offset() and asked_offset(-130.0).n_frames == -3 and asked_offset(90).n_frames == 2


@pytest.mark.parametrize("n_later", [-3, 4])
def test_shifted_lips_show_what_was_there_so_much_earlier(n_later):
    points = np.random.default_rng(0).random((12, 20, 2)).astype(np.float32)
    valid = np.arange(12) != 5
    lips = DrawnLips(points, valid, lip_recipe("mesh_32"))
    shifted = ShiftedLips(lips, n_later)
    whole = shifted.read(0, 12)
    for k in range(12):
        there = 0 <= k - n_later < 12
        assert shifted.valid[k] == (there and valid[k - n_later])
        expected = lips.read(k - n_later, k - n_later + 1)[0] if there else np.zeros_like(whole[0])
        assert np.array_equal(whole[k], expected) and np.array_equal(shifted.read(k, k + 1)[0], expected)
    assert SAMPLES_PER_FRAME * FPS == SAMPLE_RATE
