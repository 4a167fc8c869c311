"""The shape of the fade between windows: sin^2 up, cos^2 down, by values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lipsep.separation.windows import crossfade


def test_a_window_rises_as_sin_squared_and_falls_as_cos_squared():
    fade = crossfade(1_000, 400)
    for place, value in ((0.25, 0.14645), (1 / 3, 0.25), (0.5, 0.5), (2 / 3, 0.75), (0.75, 0.85355)):
        assert fade[round(400 * place)] == pytest.approx(value, abs=0.005)
        assert fade[round(1_000 - 400 * place)] == pytest.approx(value, abs=0.005)
    assert (fade[400:600] == 1).all()
    np.testing.assert_allclose(fade[600:] + fade[:400], 1, atol=1e-6)  # what two neighbours make together
