"""VisualVoice's training: its losses by hand, the pairs of mixtures, the faces, and who learns how fast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from kept import keep
from places import ROOT

from lipsep.data.clips.clips import TalkingClips, join, pack
from lipsep.data.clips.pictures import show_face
from lipsep.data.mixing.co_separation import CoSeparationMixtures
from lipsep.data.mixing.mixing import MixingConfig, Mixtures, collate
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.errors import ModelError
from lipsep.kernels.spectrogram import as_complex, as_pairs
from lipsep.lips.recipes import lip_recipe
from lipsep.losses import mask_error, si_snr, triplet
from lipsep.models import create_model
from lipsep.training.co_separation import CoSeparation, consistency, matching
from lipsep.training.corpora import prepare_feed
from lipsep.training.recipe import TrainingPart, load_recipe
from lipsep.training.separation import SeparationTraining

TOY = ROOT / "recipes/toy/visualvoice.yaml"
CALM = MixingConfig(
    segment_s=0.64, gain_db=3.0, mouths=None, dropped=0.0, random_crop=False, filmed_pairs=1.0, alike=0.0
)


def small(**settings):
    torch.manual_seed(0)
    sizes = {"channels": 4, "face_channels": 8, "face_size": 64, "lip_size": 32, "lip_recipe": "mesh_32"}
    return create_model("visualvoice", video_encoder="autoencoder", **sizes | settings)


@pytest.fixture(scope="module")
def corpus() -> TalkingClips:
    return synthetic_corpus(n_talkers=3, clips_per_talker=2, clip_s=1.6, seed=0)


# --- Losses ----------------------------------------------------------------------------------------------------------


def test_the_error_of_masks_is_weighted_by_the_mixtures_loudness_and_clipped():
    """Two cells. Mixture 1: voice / mixture = 0.5 + 0.5i, missed by 0.5 and 0.5; weight log 2. Mixture 3i: the true
    mask 30 / 3i = -10i counts as -5i, missed by 4; weight log 4. Mean over cells and parts."""
    mixture = torch.tensor([[[1.0 + 0j, 3j]]])
    voice = torch.tensor([[[0.5 + 0.5j, 30.0 + 0j]]])
    mask = torch.tensor([[[1.0 + 0j, 0.0 - 1j]]])
    wanted = (np.log(2) * (0.25 + 0.25) + np.log(4) * 16) / 4
    assert float(mask_error(mask, voice, mixture, 5.0)) == pytest.approx(wanted, rel=1e-6)


def test_silence_gives_a_finite_error_and_gradient():
    mask = torch.zeros(1, 2, 2, dtype=torch.complex64, requires_grad=True)
    loss = mask_error(mask, torch.zeros_like(mask), torch.zeros(1, 2, 2, dtype=torch.complex64), 5.0)
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(mask.grad).all()


def test_a_triplet_asks_for_a_margin_between_cosines():
    anchor = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    same, other = torch.tensor([[3.0, 4.0], [5.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    # 0 - 0.6 + 0.5 < 0: nothing to learn; swapped, 0.6 - 0 + 0.5, and for the second row 1 + 1 + 0.5
    assert float(triplet(anchor, same, other)) == 0.0
    assert float(triplet(anchor, other, same)) == pytest.approx((1.1 + 2.5) / 2)


def test_voices_are_matched_with_faces_and_with_each_other():
    a, b = [1.0, 0.0], [0.0, 1.0]
    assert float(matching(torch.tensor([[a, b, a, b]]), torch.tensor([[a, b, a, b]]))) == 0.0
    assert float(matching(torch.tensor([[a, b, a, b]]), torch.tensor([[b, a, b, a]]))) == pytest.approx(4 * 1.5)
    assert float(matching(torch.tensor([[a, b, a, b]]), torch.tensor([[a, a, a, a]]))) == pytest.approx(4 * 0.5)
    assert float(consistency(torch.tensor([[a, b, a, b]]))) == 0.0
    assert float(consistency(torch.tensor([[a, b, b, b]]))) == pytest.approx(2 * 0.5)
    assert float(consistency(torch.tensor([[a, a, b, b]]))) == pytest.approx(1.5 + 0.5)  # A's second voice is B's


def test_the_mask_that_costs_nothing_separates(corpus, monkeypatch):
    """What the loss calls the true mask gives the voices, through the spectrogram and back."""
    model = small().eval()
    data = CoSeparationMixtures(corpus, None, None, replace(CALM, segment_s=1.6), lip_recipe("mesh_32"), 1, 0)
    mixture, lips, sources = data[0]
    mixed, spoken = (as_complex(model.analyse(sound * model.gain(mixture))) for sound in (mixture, sources[:, 0]))
    true = as_pairs(spoken / (mixed + 1e-12)).clamp(-5, 5)
    assert mask_error(as_complex(true), spoken, mixed, 5.0) < 1e-6
    monkeypatch.setattr(model, "mask", lambda *_: true)
    with torch.inference_mode():
        estimates = model(mixture, lips, torch.zeros(4, 3, 64, 64))
    assert si_snr(estimates, sources).min() > 20


def test_the_whole_loss_teaches_every_network(corpus, monkeypatch):
    model = small()
    losses = CoSeparation(model)
    data = CoSeparationMixtures(corpus, None, None, CALM, lip_recipe("mesh_32"), 2, seed=0, face_size=64)
    for draws in ([0.9, 0.9], [0.1, 0.9]):  # separated voices; true ones to match, separated ones to compare
        monkeypatch.setattr(torch, "rand", lambda *_, draws=draws: torch.tensor(draws))
        model.zero_grad(), losses.zero_grad()
        loss = losses(model, *collate([data[0], data[1]]))
        loss.backward()
        assert torch.isfinite(loss)
        learners = [*model.named_parameters(), *losses.named_parameters()]
        still = {name.split(".")[1] for name, p in learners if p.grad is None or not p.grad.any()}
        assert still == {"decoder"}  # of the autoencoder, which only its pretraining uses


def test_only_visualvoice_has_such_losses():
    with pytest.raises(ModelError, match=r"co_separation compares VisualVoice's masks; avlit_2 has none"):
        CoSeparation(create_model("avlit_2"))


# --- Pairs of mixtures -----------------------------------------------------------------------------------------------


def test_a_pair_of_mixtures_shares_a_talker_on_one_side_and_a_voice_on_the_other(corpus):
    data = CoSeparationMixtures(corpus, None, None, CALM, lip_recipe("mesh_32"), 20, seed=1, face_size=64)
    own_face = {name: show_face(clip.face, 64) for name, clip in zip(corpus.talkers, corpus, strict=True)}
    asked = set()
    for item in data:
        mixture, lips, sources, faces = (part.numpy() for part in item)
        assert mixture.shape == (4, 10240) and lips.shape == (4, 16, 32, 32)
        assert sources.shape == (4, 1, 10240) and faces.shape == (4, 3, 64, 64)
        np.testing.assert_array_equal(mixture[[0, 2]], mixture[[1, 3]])
        np.testing.assert_allclose(sources[0, 0] + sources[1, 0], mixture[0], atol=1e-6)
        np.testing.assert_allclose(sources[2, 0] + sources[3, 0], mixture[2], atol=1e-6)
        b, again = sources[1, 0], sources[3, 0]
        np.testing.assert_allclose(b * np.linalg.norm(again), again * np.linalg.norm(b), atol=1e-4)
        np.testing.assert_array_equal(lips[1], lips[3])
        assert np.abs(lips[0] - lips[2]).max() > 0.1  # two clips of A
        np.testing.assert_array_equal(faces[:2], faces[2:])
        seen = [next(name for name, face in own_face.items() if (face == faces[row]).all()) for row in (0, 1)]
        assert seen[0] != seen[1]
        asked.update(seen)
    assert len(asked) == 3
    for part, again in zip(data[3], data[3], strict=True):
        assert torch.equal(part, again)


def test_one_talker_alone_cannot_be_paired(corpus):
    with pytest.raises(ModelError, match=r"needs two talkers.*these 2 clips show 1"):
        CoSeparationMixtures(corpus.select([0, 1]), None, None, CALM, lip_recipe("mesh_32"), 1, seed=0)
    with pytest.raises(ModelError, match="leave 'unfilmed' out"):
        CoSeparationMixtures(corpus, corpus, None, CALM, lip_recipe("mesh_32"), 1, seed=0)


# --- Faces -----------------------------------------------------------------------------------------------------------


def test_talkers_have_faces_of_their_own_that_stay_on_disk(corpus, tmp_path):
    faces = [clip.face[np.zeros(1, int)][0] for clip in corpus]
    assert faces[0].shape == (64, 64, 3) and (faces[0] == faces[1]).all()
    assert np.abs(faces[0].astype(int) - faces[2]).mean() > 10
    parts = [corpus.select([0, 2]), corpus.select([4])]
    for number, part in enumerate(parts):
        part.save(tmp_path / f"{number}.npz")
    kept = join([TalkingClips.load(tmp_path / f"{number}.npz") for number in range(2)]).select([2, 1])
    np.testing.assert_array_equal(kept[0].face[np.zeros(1, int)][0], faces[4])
    np.testing.assert_array_equal(kept[1].face[np.zeros(1, int)][0], faces[2])
    (tmp_path / "0.faces.npy").unlink()  # as an older version left it
    assert join([TalkingClips.load(tmp_path / f"{number}.npz") for number in range(2)]).faces is None
    assert pack([]).faces is None


def test_each_mouth_comes_with_its_own_face_and_without_chance_for_validation(corpus):
    data = Mixtures(corpus, None, None, CALM, lip_recipe("mesh_32"), 4, seed=0, face_size=64)
    plain = [show_face(clip.face, 64) for clip in corpus]
    for _, _, _, faces in data:
        assert all(any((face == known).all() for known in plain) for face in faces.numpy())
    rng = np.random.default_rng(0)
    varied = [show_face(corpus[0].face, 64, rng) for _ in range(8)]
    assert len({each.tobytes() for each in varied}) == 8
    assert np.ptp([each.mean() for each in varied]) > 0.2  # other lights


def recipe(tmp_path: Path, **parts) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"extends": str(TOY), "output": str(tmp_path / "run"), **parts}))
    return path


def test_corpora_without_faces_are_refused_with_what_to_do(corpus, tmp_path):
    bare = TalkingClips(corpus.names, corpus.talkers, corpus.n_frames, corpus.voices, corpus.mouths)
    keep(bare, tmp_path / "prepared", tmp_path / "old")
    data = {
        "synthetic": None, "filmed": str(tmp_path / "old"), "prepared": str(tmp_path / "prepared"),
        "filmed_validation_prefixes": ["talker002"],
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"needs a picture of each talker's face, and .*lipsep prepare --pictures"):
        prepare_feed(load_recipe(recipe(tmp_path, data=data)), lip_recipe("mesh_32"), face_size=64)
    data = {"synthetic": None, "finished": str(tmp_path)}
    with pytest.raises(ModelError, match=r"finished mixtures and mouths; visualvoice needs faces.*lipsep prepare"):
        prepare_feed(load_recipe(recipe(tmp_path, data=data)), lip_recipe("mesh_32"), face_size=64)


# --- Rates -----------------------------------------------------------------------------------------------------------


def test_faces_and_voices_learn_at_a_rate_of_their_own_and_all_slow_down_at_the_published_steps():
    settings = TrainingPart(
        loss="co_separation", learning_rate=1e-4, identity_learning_rate=1e-5, schedule="steps",
        drop_at_steps=(30, 40), batch_mixtures=1, steps_per_epoch=50, epochs=1,
    )  # fmt: skip
    module = SeparationTraining(small(), settings)
    set_up = module.configure_optimizers()
    optimiser, schedule = set_up["optimizer"], set_up["lr_scheduler"]["scheduler"]
    slow = {id(p) for p in optimiser.param_groups[1]["params"]}
    for name, parameter in module.named_parameters():
        assert (id(parameter) in slow) == ("face_encoder" in name or "voice_encoder" in name)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(module.parameters()))
    rates = []
    for _ in range(50):
        rates.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    np.testing.assert_allclose(rates[29], [1e-4, 1e-5])
    np.testing.assert_allclose(rates[30], [1e-5, 1e-6])
    np.testing.assert_allclose(rates[49], [1e-6, 1e-7])


def test_masks_are_compared_with_nothing_beside():
    with pytest.raises(ValueError, match="leave 'auxiliary_weight' and 'stft_weight' out"):
        TrainingPart(loss="co_separation", stft_weight=0.1, batch_mixtures=1, steps_per_epoch=1, epochs=1)
    with pytest.raises(ValueError, match="'identity_learning_rate' is for loss co_separation"):
        TrainingPart(loss="snr", identity_learning_rate=1e-5, batch_mixtures=1, steps_per_epoch=1, epochs=1)
