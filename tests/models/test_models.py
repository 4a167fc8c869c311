"""What every registered model must do; no model is left out."""

from __future__ import annotations

import fnmatch

import pytest
import torch

from lipsep.checkpoints.folder import load_model, save_model
from lipsep.errors import ModelError
from lipsep.models import SeparationModel, create_model, list_models, model_config
from lipsep.models.registry import _MODELS

MODELS = list_models()
SMALLER = {
    "av_convtasnet": {"channels": 32, "hidden": 32, "video_encoder": "autoencoder", "lip_size": 32},
    "av_tdanet_*[0-9]": {"rounds": 2, "video_encoder": "autoencoder", "lip_size": 32},
    "avlit_[0-9]": {"audio_passes": 2, "audio_hidden": 64, "video_passes": 2, "lip_size": 32},
    "ctcnet": {"channels": 32, "video_encoder": "autoencoder", "lip_size": 32, "audio_rounds": 2},
    "av_mossformer2": {
        "channels": 32,
        "n_layers": 2,
        "key_channels": 32,
        "group": 64,
        "memory_channels": 16,
        "lip_size": 32,
    },
    "bin_[0-9]*": {"iterations": 2, "audio_channels": 64, "audio_hidden": 32, "video_hidden": 16, "lip_size": 32},
    "iianet": {"channels": 16, "hidden_channels": 32, "video_channels": 16, "n_rounds": 6, "lip_size": 32},
    "rtfsnet_*": {"n_rounds": 2, "channels": 16, "hidden_channels": 8, "video_channels": 32, "lip_size": 32},
    "swiftnet_*": {"n_rounds": 2, "channels": 16, "hidden_channels": 8, "video_channels": 32, "lip_size": 32},
    "visualvoice*": {"channels": 8, "face_size": 64, "lip_size": 32},
    "voices_first": {"channels": 16, "n_blocks": 1, "follower": "dolphin_laptop_together_test"},
}
"""Pattern of names -> settings under which large models are tested here, so that the tests stay quick."""

ONE_EACH = {_MODELS[name][0]: name for name in reversed(MODELS)}.values()
"""A model of each architecture, the first by name (dolphin, voices_first): for what takes long."""


def make(name: str) -> SeparationModel:
    torch.manual_seed(3)
    smaller = {
        key: value for p, settings in SMALLER.items() if fnmatch.fnmatch(name, p) for key, value in settings.items()
    }
    return create_model(name, **smaller)


def inputs(model: SeparationModel, batch: int, n_samples: int) -> list[torch.Tensor]:
    """Mixture and lips, and pictures of faces where the model needs them."""
    generator = torch.Generator().manual_seed(n_samples)
    size = model.config.lip_size
    people = (model.n_faces,) if model.faces_at_once else ()
    shapes = [(batch, n_samples), (batch, *people, max(1, round(n_samples / 640)), size, size)]
    if model.needs_faces:
        shapes.append((batch, *people, 3, model.config.face_size, model.config.face_size))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def stir(model: SeparationModel) -> SeparationModel:
    """Leave the initial state, where published models have gates that are shut and weights that are zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_output_is_as_long_as_the_input_whatever_its_length(name: str) -> None:
    model = make(name).eval()
    with torch.inference_mode():
        for n_samples in (1, 640, 4_999, 8_003):
            estimates = model(*inputs(model, 1, n_samples))
            assert estimates.shape[0] == 1
            assert estimates.shape[2] == n_samples
            assert torch.isfinite(estimates).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_gives_what_its_rows_give_alone(name: str) -> None:
    model = stir(make(name)).eval()
    given = inputs(model, 3, 8_000)
    with torch.inference_mode():
        together = model(*given)
        alone = torch.cat([model(*(x[i : i + 1] for x in given)) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))
    assert (together[0] - together[1]).abs().max() > 1e-3 * alone.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_silence_and_a_black_picture_give_numbers(name: str) -> None:
    model = make(name)
    black = [torch.zeros_like(x) for x in inputs(model, 2, 8_000)]
    for mode in (True, False):
        estimates = model.train(mode)(*black)
        assert torch.isfinite(estimates).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns_except_those_declared_dead(name: str) -> None:
    model = stir(make(name)).train()
    model(*inputs(model, 2, 8_000)).square().mean().backward()
    # a bias that moves all logits of a softmax alike changes nothing: what its gradient shows is rounding, or nothing
    learning = [(key, p) for key, p in model.named_parameters() if not key.endswith(".gate.attend.bias")]
    stuck = [key for key, p in learning if p.grad is None or not p.grad.any()]
    unused = [*model.dead_parameters, "video_encoder.decoder.*"]  # which serves pretraining
    dead = [key for key, _ in learning if any(fnmatch.fnmatch(key, d) for d in unused)]
    assert stuck == [key for key in dead if key in stuck]
    assert not model.config.__dict__.get("as_published") or stuck == dead
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", MODELS)
def test_save_and_load_change_nothing(name: str, tmp_path) -> None:
    model = stir(make(name)).eval()
    save_model(model, tmp_path, {"keeps_level": True, "licence": "CC0-1.0"})
    loaded = load_model(tmp_path)
    assert not loaded.training
    assert loaded.config == model.config
    assert (loaded.name, loaded.lip_recipe, loaded.keeps_level) == (name, model.lip_recipe, True)
    assert loaded.metadata["licence"] == "CC0-1.0"
    with torch.inference_mode():
        assert torch.equal(loaded(*inputs(model, 1, 8_000)), model(*inputs(model, 1, 8_000)))


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_makes_the_same_model(name: str) -> None:
    first, second = make(name).state_dict(), make(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_preparing_for_inference_changes_nothing(name: str) -> None:
    model = stir(make(name)).eval()
    given = inputs(model, 2, 8_003)
    if name == "visualvoice_lips":  # in float32 its own rounding alone is 2e-4 of the peak with such weights
        model, given = model.double(), [x.double() for x in given]
    with torch.inference_mode():
        before = model(*given)
        after = model.prepare_for_inference()(*given)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in ONE_EACH else pytest.param(name, marks=pytest.mark.exhaustive) for name in MODELS]
)
def test_ten_seconds_work(name: str) -> None:
    """One model of each architecture; all models in `make test-all`."""
    model = make(name).eval()
    with torch.inference_mode():
        assert torch.isfinite(model(*inputs(model, 1, 160_000))).all()


@pytest.mark.parametrize("name", MODELS)
def test_misfitting_inputs_are_refused(name: str) -> None:
    model = make(name)
    mixture, lips, *faces = inputs(model, 2, 8_000)
    with pytest.raises(ModelError, match="same B"):
        model(mixture[0], lips, *faces)
    with pytest.raises(ModelError, match="same B"):
        model(mixture[:1], lips, *faces)
    with pytest.raises(ModelError, match="one frame per 640 samples"):
        model(torch.cat([mixture, mixture], dim=1), lips, *faces)
    with pytest.raises(ModelError, match="lip recipe"):
        model(mixture, lips[..., 1:, 1:], *faces)
    if model.needs_faces:
        for wrong in ([], [faces[0][..., 1:]]):
            with pytest.raises(ModelError, match="picture of each face"):
                model(mixture, lips, *wrong)


def test_names_match_patterns() -> None:
    assert "dolphin" in list_models()
    assert list_models("*laptop") == ["dolphin_laptop"]
    assert list_models("nothing*") == []


def test_an_unknown_setting_lists_the_valid_ones() -> None:
    with pytest.raises(ModelError, match=r"no setting 'chanels'; it has: .*channels"):
        create_model("dolphin", chanels=64)
    assert model_config("dolphin_test", n_stages=3).n_stages == 3


def test_an_unknown_model_suggests_close_names() -> None:
    with pytest.raises(ModelError, match=r"did you mean .*'dolphin_laptop'"):
        create_model("dolphin_labtop")
    with pytest.raises(ModelError, match=r"known models: .*dolphin"):
        create_model("xyzzy")


def test_loud_and_quiet_recordings_are_separated_alike():
    """Where `input_level` is set, the estimate scales with the mixture, so that levels are kept at any volume."""
    model = create_model("dolphin_laptop").eval()
    mixture, lips = torch.randn(1, 8_000), torch.randn(1, 13, model.config.lip_size, model.config.lip_size)
    with torch.inference_mode():
        torch.testing.assert_close(model(20 * mixture, lips), 20 * model(mixture, lips), rtol=1e-4, atol=1e-4)
