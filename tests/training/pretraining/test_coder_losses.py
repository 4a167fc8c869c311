"""DP-LipCoder's losses from Eq. 15-18 of Dolphin, and the targets of its teachers frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipsep.data.clips.clips import TalkingClip, pack
from lipsep.data.mixing.mixing import MixingConfig
from lipsep.lips.recipes import lip_recipe
from lipsep.models import create_model
from lipsep.training.pretraining.coder import LipCoding
from lipsep.training.pretraining.reading import WatchedVoices
from lipsep.training.pretraining.teachers import LogMelTeacher, StoredTeacher
from lipsep.training.recipe import LipCoderPart

TERMS = ("reconstruction", "commitment", "distillation")


def coding(tmp_path, **settings) -> LipCoding:
    """A tiny DP-LipCoder; its teacher's targets, 5 per frame, come with the examples; codes are not drawn but found."""
    torch.manual_seed(0)
    teacher = StoredTeacher(LogMelTeacher())
    teacher.dim = 5
    part = LipCoderPart(batch=2, steps_per_epoch=1, epochs=1, output=tmp_path, **settings)
    module = LipCoding(create_model("dolphin_test").video_encoder, teacher, part)
    quantizer = module.encoder.quantizer
    quantizer._choose = lambda vectors: torch.cdist(vectors, quantizer.codebook.detach()).argmin(-1)
    quantizer._follow = lambda *_: None  # code words stay while the terms are looked at
    quantizer.started.fill_(True)
    module.log = module.log_dict = lambda *_, **__: None
    return module


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 32, 32, generator=generator), torch.randn(2, 4, 5, generator=generator)


def squared_norms(module: LipCoding) -> dict[str, tuple[float, int]]:
    """Of each term's difference, over the whole batch of 8 frames, in float64, and the numbers per frame."""
    lips, target = batch()
    seen = module.encoder.encode(lips)
    quantizer = module.encoder.quantizer
    z = quantizer.project_in(seen.semantics)  # (B, F, 4)
    nearest = (z.unsqueeze(2) - quantizer.codebook).norm(dim=-1).argmin(-1)
    differences = {
        "reconstruction": module.decoder(seen.features) - lips,
        "commitment": z - quantizer.codebook[nearest],
        "distillation": module.to_target(seen.semantics) - target,
    }
    return {
        name: (float(each.detach().double().square().sum()), each[0, 0].numel()) for name, each in differences.items()
    }


@pytest.mark.parametrize("reduction", ["mean", "sum_per_frame"])
@pytest.mark.parametrize("codebook", ["moving_average", "gradient"])
@pytest.mark.parametrize("heavy", [None, *TERMS])
def test_the_loss_is_the_weighted_sum_of_eq_18(tmp_path, reduction, codebook, heavy):
    """Eq. 15 + lambda Eq. 16 + lambda Eq. 17; its first term has the value of its second, and weight 1 as written."""
    weights = dict.fromkeys(TERMS, 1.0) | ({heavy: 7.0} if heavy else {})
    module = coding(tmp_path, reduction=reduction, codebook=codebook, **weights)
    values = {name: norm / 8 / (n if reduction == "mean" else 1) for name, (norm, n) in squared_norms(module).items()}
    expected = sum(weights[name] * value for name, value in values.items())
    if codebook == "gradient":
        expected += values["commitment"]
    assert float(module.training_step(batch(), 0).detach()) == pytest.approx(expected, rel=1e-4)


def test_commitment_moves_the_encoder_and_the_first_term_the_codebook(tmp_path):
    """The stop-gradients of Eq. 15."""
    module = coding(tmp_path, codebook="gradient")
    losses, _, _ = module._losses(*batch())
    encoder, codebook = module.encoder.quantizer.project_in.weight, module.encoder.quantizer.codebook
    for name, moved, still in (("commitment", encoder, codebook), ("codebook", codebook, encoder)):
        moving, resting = torch.autograd.grad(losses[name], (moved, still), allow_unused=True, retain_graph=True)
        assert moving.any() and resting is None


# --- Targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [0, 3, 9])
def test_the_spectrum_of_a_sound_is_the_target_of_the_frame_it_is_in(frame):
    """A tone of 20 ms in the middle of a frame of 40 ms is in that frame's target and in no other's."""
    voice = 1e-4 * torch.randn(1, 10 * 640, generator=torch.Generator().manual_seed(0))
    voice[:, frame * 640 + 160 : frame * 640 + 480] += torch.sin(torch.arange(320) / 16_000 * 2 * torch.pi * 500)
    target = LogMelTeacher()(torch.empty(0), voice)[0]  # (10, 160)
    loudness = target.mean(-1)
    assert int(loudness.argmax()) == frame
    others = torch.cat([loudness[:frame], loudness[frame + 1 :]])
    assert float(others.max()) < float(loudness[frame]) - 0.5


def test_stored_targets_and_pictures_are_those_of_the_same_frames():
    """A clip that counts: frame f has target f, a mouth that is open by f, and a voice of f."""
    count = np.arange(60, dtype=np.float32)
    ring = np.stack([np.cos(np.linspace(0, 6, 20)), np.sin(np.linspace(0, 6, 20))], -1)
    mouth = 0.5 + 0.1 * ring[None] * np.stack([np.ones(60), 0.2 + count / 60], -1)[:, None]
    clip = TalkingClip("a", "a", np.repeat(count / 100, 640).astype(np.float32), mouth.astype(np.float32))
    config = MixingConfig(segment_s=0.4, pace=(1.0, 1.0), mouths=None)
    points = lip_recipe("points_8")
    fed = WatchedVoices(pack([clip]), None, config, points, 5, seed=0, targets=([count[:, None]], None))
    heard = WatchedVoices(pack([clip]), None, config, points, 5, seed=0)
    whole = heard.view(clip, np.arange(60.0), np.random.default_rng(0))  # (60, 8, 8)
    for index in range(5):
        (pictures, target), (_, voice) = fed[index], heard[index]
        frames = target[:, 0].round().long()
        assert torch.equal(frames, frames[0] + torch.arange(10))
        torch.testing.assert_close(voice.view(10, 640).mean(1), frames / 100, atol=1e-3, rtol=0)
        np.testing.assert_allclose(pictures, whole[frames], atol=1e-5)
