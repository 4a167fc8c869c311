import json
import math

import numpy as np
import pytest
import soundfile

from lipsep.evaluation.metrics import score

SYSTEMS = ("Dolphin", "IIANet", "AV-Mossformer2")


def test_silence_is_undefined_and_never_zero():
    speech = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert all(math.isnan(value) for value in score(np.zeros_like(speech), speech, speech).values())


def test_a_better_estimate_scores_better_on_every_metric():
    rng = np.random.default_rng(0)
    t = np.arange(48_000) / 16_000
    voice = rng.normal(0, 0.1, len(t)) * (1 + np.sin(2 * np.pi * 3 * t)) * (1 + np.sin(2 * np.pi * 0.7 * t))
    mixture = voice + rng.normal(0, 0.1, len(t))
    worse, better = (score(voice + level * rng.normal(0, 0.1, len(t)), voice, mixture) for level in (0.5, 0.05))
    assert better["si_snri"] == pytest.approx(worse["si_snri"] + 20, abs=0.5)
    assert better["sdri"] > worse["sdri"] + 15 and better["estoi"] > worse["estoi"] + 0.05


def test_the_mixture_itself_is_no_improvement():
    voice, other = np.random.default_rng(0).normal(0, [[0.1], [0.03]], (2, 16_000))
    scores = score(voice + other, voice, voice + other)
    assert scores["si_snri"] == scores["sdri"] == 0.0
    assert scores["si_snr"] == pytest.approx(20 * math.log10(0.1 / 0.03), abs=0.2)


@pytest.mark.parametrize("system", SYSTEMS)
def test_agrees_with_the_reference_figures(shared, system):
    """Six public VoxCeleb2 examples: means over the clips as published beside them."""
    folder = shared / "reference" / "metrics"
    expected = json.loads((folder / "expected.json").read_text())["systems"]
    for k in range(6):
        estimate, reference, mixture = (
            soundfile.read(folder / kind / f"{k}.wav", dtype="float32")[0] for kind in (system, "gt", "mixture")
        )
        n_samples = min(map(len, (estimate, reference, mixture)))
        scores = score(estimate[:n_samples], reference[:n_samples], mixture[:n_samples])
        theirs, before = expected[system][k], expected["mixture"][k]
        assert scores["si_snri"] == pytest.approx(theirs["si_snr"] - before["si_snr"], abs=2e-3)
        assert scores["sdri"] == pytest.approx(theirs["sdr"] - before["sdr"], abs=2e-3)
        assert scores["pesq"] == pytest.approx(theirs["pesq_wb"], abs=2e-3)
        assert scores["estoi"] == pytest.approx(theirs["estoi"], abs=1e-4)
