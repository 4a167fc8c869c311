"""AVLIT's two published settings: where the video joins the audio, and that nobody guesses it."""

from __future__ import annotations

import pytest
import torch
from golden import fill_manifest

from lipsep.checkpoints.folder import load_released
from lipsep.errors import ModelError, WeightsError
from lipsep.models import create_model


@pytest.mark.parametrize("fusion_pass", [0, 2, 4])
def test_the_video_joins_before_the_pass_that_is_asked_for(fusion_pass):
    """R_0 = A(x), R_i = A(adapt(R_{i-1} + x)), A with its residual; before one the video is added and adapted."""
    torch.manual_seed(0)
    branch = create_model("avlit_test", audio_passes=6, fusion_pass=fusion_pass).audio_branch
    x, video = torch.randn(1, 32, 8), torch.randn(1, 32, 8)
    expected = None
    for index in range(6):
        entering = x if expected is None else branch.adapt(expected + x)
        entering = branch.fusion(entering + video) if index == fusion_pass else entering
        expected = entering + branch.block(entering)
    torch.testing.assert_close(branch(x, video), expected)


def test_released_weights_of_avlit_8_are_asked_for_by_their_setting(shared, tmp_path):
    torch.save(fill_manifest(shared / "reference" / "models" / "AVLIT-8s1.json"), tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match=r"'avlit_8_fusion_0' if .*avlit_8\.yaml.*'avlit_8_fusion_4' if .*README"):
        load_released("avlit_8", [tmp_path / "w.ckpt"])
    early, late = (load_released(f"avlit_8_fusion_{k}", [tmp_path / "w.ckpt"]) for k in (0, 4))
    assert (early.name, early.config.fusion_pass) == ("avlit_8", 0)
    assert (late.name, late.config.fusion_pass) == ("avlit_8", 4)
    mixture, lips = 0.1 * torch.randn(1, 3_200), torch.randn(1, 5, 64, 64)
    with torch.no_grad():
        difference = early(mixture, lips) - late(mixture, lips)
        assert difference.square().mean() > 0.01 * early(mixture, lips).square().mean()  # less than 20 dB alike


def test_a_pass_that_is_not_made_is_refused():
    with pytest.raises(ModelError, match="fusion_pass must be 0 to 3, less than audio_passes; got 4"):
        create_model("avlit_4", fusion_pass=4)
