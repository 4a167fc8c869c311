"""Voices are taken apart by their sound first: what is mixed, what the losses ask for, and that a run learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from lipsep.checkpoints.folder import load_model, save_model
from lipsep.data.clips.clips import TalkingClip, pack
from lipsep.data.corpora.prepare import kept_at
from lipsep.data.mixing.blind import BlindConfig, BlindMixtures, pitch_hz
from lipsep.data.mixing.rooms import draw_rooms
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.errors import ModelError
from lipsep.losses import clustering, permutation_free
from lipsep.models import create_model
from lipsep.training import pretrain


def talkers(n: int):
    """Clips of n synthetic talkers, named as speech corpora name theirs."""
    clips = synthetic_corpus(n, 2, 2.0, 0)
    return pack(
        TalkingClip(f"{100 + i // 2}-{i}", str(100 + i // 2), clips[i].voice, clips[i].mouth) for i in range(len(clips))
    )


# --- Losses ----------------------------------------------------------------------------------------------------------


def test_the_order_of_estimates_does_not_matter_and_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(5, 3, 800, generator=generator)
    estimates = sources + 0.1 * torch.randn(5, 3, 800, generator=generator)
    shuffled = torch.tensor([2, 0, 1])
    loss, order = permutation_free(estimates[:, shuffled], sources, sources.sum(1))
    straight, _ = permutation_free(estimates, sources, sources.sum(1))
    torch.testing.assert_close(loss, straight)
    assert order.tolist() == [[1, 2, 0]] * 5  # source 0 lies second, and so on
    assert float(loss.mean()) == pytest.approx(-3 * 19.6, abs=0.5)  # three voices at 20 dB, of 30 that count


def test_better_than_enough_counts_for_nothing_and_absent_voices_want_silence() -> None:
    sources = torch.randn(1, 2, 800, generator=torch.Generator().manual_seed(1))
    perfect, _ = permutation_free(sources, sources, sources.sum(1))
    assert float(perfect) == pytest.approx(-60, abs=0.01)  # 30 dB each, not without end
    absent = sources * torch.tensor([1.0, 0.0])[:, None]
    quiet, loud = (permutation_free(absent + level * sources.flip(1), absent, absent.sum(1))[0] for level in (0.0, 0.5))
    assert float(quiet) < float(loud) - 5


def test_clusters_are_perfect_where_members_share_a_direction() -> None:
    members = F.one_hot(torch.tensor([[0, 0, 1, 2, 2, 2]]), 3).float()
    weights = torch.rand(1, 6, generator=torch.Generator().manual_seed(2)) + 0.1
    turned = members @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
    assert float(clustering(turned, members, weights)) == pytest.approx(0, abs=1e-5)
    assert float(clustering(torch.ones(1, 6, 3) / 3**0.5, members, weights)) > 0.1


# --- Mixtures --------------------------------------------------------------------------------------------------------


def test_mixtures_are_made_of_different_talkers_and_add_up() -> None:
    noises = (1000 * np.random.default_rng(0).normal(size=100_000)).astype(np.int16)
    config = BlindConfig(segment_s=1.0, third=0.3, single=0.3, noise=0.5, pauses=0.0)
    mixtures = BlindMixtures(talkers(6), noises, None, config, 40, seed=4)
    counts = []
    for mixture, parts in (mixtures[k] for k in range(40)):
        torch.testing.assert_close(parts.sum(0), mixture, atol=1e-6, rtol=0)
        assert float(mixture.square().mean().sqrt()) == pytest.approx(0.1, rel=0.01)
        heard = parts[:3][parts[:3].any(-1)]  # a stretch may lie in a pause
        counts.append(len(heard))
        levels = 10 * heard.square().mean(-1).log10()
        assert float(levels.max() - levels.min()) <= 5.5
    assert {counts.count(n) > 3 for n in (1, 2, 3)} == {True}
    assert torch.equal(mixtures[7][0], mixtures[7][0])
    assert not torch.equal(mixtures[7][0], mixtures[8][0])
    with pytest.raises(ModelError, match="needs 4 talkers"):
        BlindMixtures(talkers(3), None, None, config, 1, seed=0)


def test_mixtures_are_easier_at_first() -> None:
    config = BlindConfig(segment_s=1.0, third=1.0, single=0.0)
    voices = talkers(6)
    at_first, later = (BlindMixtures(voices, None, None, config, 8, 5, harder_until=10, epoch=e) for e in (0, 10))
    assert all(int(parts[:3].any(-1).sum()) == 2 for _, parts in (at_first[k] for k in range(8)))
    assert all(int(parts[:3].any(-1).sum()) == 3 for _, parts in (later[k] for k in range(8)))


@pytest.mark.parametrize("pitch", [95.0, 130.0, 220.0])
def test_pitch_is_that_of_the_pulses(pitch: float) -> None:
    time_s = np.arange(16_000) / 16_000
    voice = sum(np.sin(2 * np.pi * pitch * k * time_s) / k for k in range(1, 12))
    assert pitch_hz(voice) == pytest.approx(pitch, rel=0.03)


def test_rooms_ring_and_begin_at_once() -> None:
    pytest.importorskip("pyroomacoustics", reason="rooms are simulated by pyroomacoustics")
    rooms = draw_rooms(2, 3, seed=1)
    assert rooms.shape == (2, 3, 8_000)
    assert np.allclose(rooms[..., 0], 1)
    tail = np.square(rooms[..., 800:]).sum(-1) / np.square(rooms).sum(-1)  # after 50 ms
    assert ((tail > 1e-5) & (tail < 0.7)).all()


# --- The run ---------------------------------------------------------------------------------------------------------


def recipe(tmp_path: Path, **voices) -> Path:
    """A recipe of a tiny model; the voices lie prepared, as a first run would have left them."""
    (tmp_path / "speech").mkdir()
    filmed = synthetic_corpus(6, 2, 2.0, 0).names[:8]  # of the four talkers below who train
    talkers(8).save(Path(f"{kept_at(tmp_path / 'prepared', tmp_path / 'speech', filmed)}.npz"))
    content = {
        "model": {"name": "voices_first_test"},
        "data": {
            "synthetic": {"talkers": 4, "held_out_talkers": 2, "clips_per_talker": 2, "clip_s": 2.0},
            "unfilmed": [str(tmp_path / "speech")],
            "unfilmed_held_out": ["104", "105", "106", "107"],
            "prepared": str(tmp_path / "prepared"),
        },
        "voices": {
            "batch": 4, "steps_per_epoch": 12, "epochs": 2, "workers": 0, "rooms": 0, "learning_rate": 1e-2,
            "warmup_steps": 2, "ema_decay": 0.5, "validation_mixtures": 4, "mixing": {"segment_s": 1.0},
            "stft_weight": 0.1, "output": str(tmp_path / "run"), **voices,
        },
        "training": {"loss": "snr", "batch_mixtures": 2, "steps_per_epoch": 1, "epochs": 1},
        "output": str(tmp_path / "whole"), "licence": "CC0-1.0", "provenance": "made up",
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_changes_the_separator_and_leaves_the_lips(tmp_path) -> None:
    path = recipe(tmp_path)
    model = load_model(pretrain(path))
    assert np.isfinite(model.metadata["validation"]["val_si_snri"])
    torch.manual_seed(0)
    mixtures = BlindMixtures(talkers(8), None, None, BlindConfig(segment_s=1.0, third=0, single=0), 16, seed=9)
    batch = [torch.stack(each) for each in zip(*(mixtures[k] for k in range(16)), strict=True)]
    fresh = create_model("voices_first_test").eval()
    with torch.no_grad():
        losses = [
            permutation_free(m.separator(batch[0])[:, :3], batch[1][:, :3], batch[0])[0].mean() for m in (fresh, model)
        ]
    assert losses[1] < losses[0] - 3  # dB


def test_what_is_missing_is_named(tmp_path) -> None:
    path = recipe(tmp_path, mixing={"loudness": 3})
    with pytest.raises(ModelError, match=r"voices.mixing has no loudness"):
        pretrain(path)
    content = yaml.safe_load(path.read_text())
    content["data"]["unfilmed_held_out"] = ["nobody"]
    content["voices"]["mixing"] = {}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match="no talker is one of"):
        pretrain(path)


def test_a_sitting_begins_with_the_weights_of_the_one_before(tmp_path) -> None:
    """Both networks: what is kept is what was given, not what the seed would have drawn."""
    torch.manual_seed(5)
    given = create_model("voices_first_test")
    save_model(given, tmp_path / "before", {"licence": "CC0-1.0"})
    again = {"initial_weights": "./before", "learning_rate": 0.0, "steps_per_epoch": 1, "epochs": 1}
    after = load_model(pretrain(recipe(tmp_path, **again)))
    for name, weights in after.state_dict().items():
        torch.testing.assert_close(weights, given.state_dict()[name], msg=name)


def test_a_sitting_that_begins_with_another_network_is_refused(tmp_path, model_folder) -> None:
    with pytest.raises(ModelError, match=r"initial_weights .* differ in"):
        pretrain(recipe(tmp_path, initial_weights=str(model_folder)))
