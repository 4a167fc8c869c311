"""BIN against golden tensors of the published code; its counts, lengths, numbers of voices, and memory in training."""

from __future__ import annotations

import csv
import json
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from golden import fill_manifest, golden_audio, hash_uniform, snr_db
from places import ROOT
from torch import Tensor, nn

from lipsep.checkpoints.folder import load_model
from lipsep.data.mixing.bin_pipeline import bin_mixture
from lipsep.errors import ModelError, WeightsError
from lipsep.evaluation.cases import Case
from lipsep.losses import si_snr
from lipsep.models import create_model
from lipsep.models.bin import BIN, RELEASED_FILES
from lipsep.models.released import convert_released, released_model
from lipsep.plots.curves import read_curves
from lipsep.plots.iterations import (
    draw_masks_over_iterations,
    encoded_voices,
    masks_over_iterations,
    numbers_to_try,
    quality_over_iterations,
    write_quality,
)
from lipsep.profiling.counting import count_calls
from lipsep.separator import Separator
from lipsep.training import pretrain, train
from lipsep.training.corpora import mixing_config
from lipsep.training.recipe import load_recipe

BENCHMARKS = ROOT / "benchmarks"
ABLATIONS = {
    "own_tokens": "NoCR",
    "no_tokens": "NoC",
    "audio_token": "CAOnly",
    "video_token": "CVOnly",
    "early": "Early",
}


def filled(model: BIN, manifest: Path) -> BIN:
    """The model with golden weights in its separator; the golden cases begin behind the video encoder."""
    converted = convert_released(model, RELEASED_FILES[:1], [fill_manifest(manifest)])
    found = model.load_state_dict(converted, strict=False)
    assert not found.unexpected_keys and all(key.startswith("video_encoder.") for key in found.missing_keys)
    return model.eval()


def latents(index: int) -> Tensor:
    return torch.from_numpy(hash_uniform(index, 2 * 50 * 1024).astype(np.float32)).view(1, 2, 50, 1024)


def n_parameters(model: BIN) -> int:
    """Without the video encoder, which the published network gets its latents from on disk."""
    return sum(p.numel() for key, p in model.named_parameters() if not key.startswith("video_encoder."))


# --- Parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bin_12_agrees_with_the_published_code_from_end_to_end(shared: Path) -> None:
    folder = shared / "reference" / "bin"
    model = filled(create_model("bin_12"), folder / "bin12_state_manifest.json")
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _m, _i, output: seen.setdefault(name, []).append(output))

    for name, module in {
        "audio_encoder": model.audio_encoder,
        "audio_norm": model.audio_norm,
        "audio_embed": model.audio_bottleneck,
        "video_embed": model.video_bottleneck,
        "afrcnn_in0": model.fusion.audio_branch.adapt_all,
        "iter_a": model.fusion.audio_branch.block,
        "iter_v": model.fusion.video_branch.block,
        "mask_pre_relu": model.masks.linear,
    }.items():
        watch(name, module)
    model.masks.register_forward_pre_hook(lambda _m, inputs: seen.setdefault("mask_in", []).append(inputs[0]))
    with torch.inference_mode():
        output = model.separate(golden_audio(1, 32_000), latents(9000))
    index = json.loads((folder / "bin12_index.json").read_text())["tensors"]
    with np.load(folder / "bin12_exact_f64.npz") as golden:
        for name, entry in index.items():
            if name == "output":
                found = output
            elif name.startswith("iter"):
                found = seen[f"iter_{name[-1]}"][int(name[4:-2])].mT
            else:
                found = seen[name][0].mT
            assert list(found.shape) == entry["shape"], name
            reached = snr_db(torch.from_numpy(golden[name]).flatten(), found.reshape(-1)[:: entry["flat_stride"]])
            assert reached >= 100, (name, reached)


@pytest.mark.parametrize("fusion", ["tokens", *ABLATIONS])
def test_bin_8_and_the_ablations_agree_with_the_published_code(fusion: str, shared: Path) -> None:
    name = f"BIN_abl-ProgressiveBranch{ABLATIONS[fusion]}" if fusion in ABLATIONS else "BIN_8"
    model = create_model("bin_12" if fusion in ABLATIONS else "bin_8", fusion=fusion)
    manifest = shared / "reference" / "models" / f"{name}.json"
    filled(model, manifest)
    with torch.inference_mode():
        output = model.separate(golden_audio(1, 32_000), latents(9001))
    with np.load(manifest.with_suffix(".npz")) as golden:
        assert snr_db(torch.from_numpy(golden["output"]), output.reshape(-1)[::11]) >= 100
    unused = sum(p.numel() for key, p in fill_manifest(manifest).items() if key not in used_keys(model))
    assert n_parameters(model) + unused == json.loads(manifest.read_text())["n_params"]


def used_keys(model: BIN) -> set[str | None]:
    return {RELEASED_FILES[0].their_key(key) for key in model.state_dict()}


def test_released_weights_load_as_two_files_and_say_how_many_voices_they_are_for() -> None:
    model = create_model("bin_8", n_src=3)
    separator = {RELEASED_FILES[0].their_key(key): value for key, value in model.state_dict().items()}
    lips = {RELEASED_FILES[1].their_key(key): value for key, value in model.state_dict().items()}
    del separator[None], lips[None]
    loaded = released_model("bin_8", [{f"module.{key}": value for key, value in separator.items()}, lips])
    assert loaded.config.n_src == 3
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    del separator["video_token"]
    with pytest.raises(WeightsError, match="video_token"):
        released_model("bin_8", [separator, lips])


# --- Counts ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> type[nn.Module]:
    """The plain form in which the papers count."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from plain_bin import PlainBIN
    finally:
        sys.path.remove(str(BENCHMARKS))
    return PlainBIN


def test_parameters_are_those_of_the_tensors_and_of_table_2_as_thop_saw_them() -> None:
    model = create_model("bin_16")
    assert n_parameters(model) == 6_889_107
    tokens = model.fusion.audio_token.numel() + model.fusion.video_token.numel()
    norms = sum(p.numel() for key, p in model.named_parameters() if ".norm." in key or key.startswith("audio_norm."))
    norms -= sum(p.numel() for key, p in model.video_encoder.named_parameters() if ".norm." in key)
    assert (tokens, norms) == (819_712, 21_504)
    assert round((n_parameters(model) - tokens - norms) / 1e6, 2) == 6.05


def test_the_plain_form_costs_what_table_2_says_and_ours_two_thirds_of_it(plain: type[nn.Module]) -> None:
    """Two counts tell all: the cost is a constant and so much per iteration."""
    counted, ours = [], []
    for iterations in (1, 2):
        with torch.device("meta"):
            inputs = torch.empty(1, 32_000), torch.empty(1, 2, 50, 1024)
            counted.append(count_calls(plain(iterations), inputs, "thop").hooks.total / 1e9)
            model = create_model("bin_8", iterations=iterations).eval()
            lips = torch.empty(1, 2, 50, 64, 64)
            ours.append(count_calls(model, (inputs[0], lips)).true.without_video_encoder / 1e9)
    for iterations, gmacs in ((8, 42.95), (12, 63.58), (16, 84.22)):
        by_thop, executed = (first + (iterations - 1) * (second - first) for first, second in (counted, ours))
        assert by_thop == pytest.approx(gmacs, abs=0.02)
        assert executed < 0.68 * by_thop


# --- Any length, any number of voices, any number of iterations ------------------------------------------------------


def lips_for(model: BIN, n_frames: int, seed: int = 0) -> Tensor:
    size, generator = model.config.lip_size, torch.Generator().manual_seed(seed)
    return torch.randn(1, model.n_faces, n_frames, size, size, generator=generator)


def test_longer_sound_stretches_the_tokens_as_published_and_shorter_sound_shrinks_them(plain: type[nn.Module]) -> None:
    ours, theirs = create_model("bin_8", iterations=2).eval(), plain(2).eval()
    theirs.load_state_dict(
        {RELEASED_FILES[0].their_key(k): v.view_as(t) for k, v, t in paired(ours, theirs.state_dict())}
    )
    for seconds in (0.4, 2.48):
        mixture, faces = torch.randn(1, round(16_000 * seconds)), torch.randn(1, 2, round(25 * seconds), 1024)
        with torch.inference_mode():
            assert snr_db(theirs(mixture, faces), ours.separate(mixture, faces)) > 90


def paired(model: BIN, theirs: dict[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    """Our key and tensor with their tensor."""
    key_of = RELEASED_FILES[0].their_key
    return [(key, value, theirs[key_of(key)]) for key, value in model.state_dict().items() if key_of(key) is not None]


@pytest.mark.parametrize("n_src", [1, 3, 4])
def test_other_numbers_of_voices(n_src: int) -> None:
    model = create_model("bin_test", n_src=n_src).eval()
    lips = lips_for(model, 13)
    with torch.inference_mode():
        assert model(torch.randn(1, 8_000), lips).shape == (1, n_src, 8_000)
        with pytest.raises(ModelError, match=f"takes {n_src} at once"):
            model(torch.randn(1, 8_000), torch.cat([lips, lips], dim=1))


def test_fewer_iterations_are_what_more_iterations_pass_through() -> None:
    model = create_model("bin_test").eval()
    mixture, lips = torch.randn(1, 8_000), lips_for(model, 13)
    with torch.inference_mode():
        iterates = list(model.iterates(mixture, lips))
        assert len(iterates) == 3
        for model.iterations in (1, 2, 3):
            torch.testing.assert_close(model(mixture, lips), iterates[model.iterations - 1].estimates)
        assert iterates[0].masks.shape == (1, 2, 401, 32) and all((i.masks >= 0).all() for i in iterates)
        model.iterations = 5
        assert not torch.allclose(model(mixture, lips), iterates[2].estimates)
    for impossible in (0, -1):
        with pytest.raises(ModelError, match="at least 1"):
            model.iterations = impossible


@pytest.mark.parametrize("fusion", list(ABLATIONS))
def test_ablations_learn_with_every_parameter(fusion: str) -> None:
    model = create_model("bin_test", fusion=fusion)
    model(torch.randn(2, 8_000), lips_for(model, 13).expand(2, -1, -1, -1, -1)).square().mean().backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == [key for key in idle if key.startswith("video_encoder.decoder.")]


@pytest.mark.parametrize("settings", [{"fusion": "late"}, {"iterations": 0}, {"kernel": 41}])
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ModelError, match=r"fusion|at least 1"):
        create_model("bin_test", **settings)


# --- The main path ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_video_gives_as_many_voices_as_faces_whatever_number_the_model_takes(monkeypatch) -> None:
    demo = files("lipsep") / "assets" / "demo.mp4"
    separator = Separator(create_model("bin_test"), "cpu", window_s=2.0, overlap_s=0.4)
    both = separator(demo)
    assert both.voices.shape[0] == 2 and both.report["settings"]["iterations"] == 3
    tracks = both.tracks
    monkeypatch.setattr("lipsep.results.people.find_faces", lambda frames, *, speakers, **_: tracks[:speakers])
    fewer = separator(demo, iterations=1)
    assert fewer.report["settings"]["iterations"] == 1 and np.abs(fewer.voices - both.voices).max() > 1e-4
    np.testing.assert_allclose(separator(demo).voices, both.voices, atol=1e-6)  # as it was made
    assert not [warning for warning in both.report["warnings"] if "at a time" in warning]
    with pytest.warns(UserWarning, match="1 visible, and 'bin_test' separates 2 at a time: empty places see no mouth"):
        assert separator(demo, speakers=1).voices.shape[0] == 1
    with pytest.warns(UserWarning, match="2 visible, and 'bin_test' separates 1 at a time: the rest is noise to it"):
        alone = Separator(create_model("bin_test", n_src=1), "cpu")(demo).voices
    assert alone.shape == both.voices.shape and np.isfinite(alone).all()


def test_a_model_that_does_not_iterate_says_so() -> None:
    separator = Separator(create_model("dolphin_test"), "cpu")
    with pytest.raises(ModelError, match="no number of iterations"):
        separator((np.zeros(6400, np.float32), np.zeros((10, 32, 32, 3), np.uint8)), iterations=4)


# --- Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["tokens", "early"])
def test_recomputing_gives_equal_gradients(fusion: str) -> None:
    torch.manual_seed(0)
    mixture = torch.randn(2, 8_000)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(1)
        model = create_model("bin_test", fusion=fusion, recompute=recompute, iterations=12)
        lips = lips_for(model, 13).repeat(2, 1, 1, 1, 1)
        model(mixture, lips).square().mean().backward()
        gradients.append(
            [p.grad for key, p in model.named_parameters() if "decoder.0" not in key and p.grad is not None]
        )
    assert len(gradients[0]) == len(gradients[1]) > 50
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, kept, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_twice_the_iterations_need_at_most_half_more_memory_in_training() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from bin_speed import training_memory_mib
    finally:
        sys.path.remove(str(BENCHMARKS))
    eight, sixteen = (training_memory_mib(iterations, seconds=1.0) for iterations in (8, 16))
    assert eight < sixteen <= 1.5 * eight


RECIPES = ROOT / "recipes"


@pytest.mark.parametrize("path", [*(RECIPES / "bin").glob("*.yaml"), RECIPES / "toy" / "bin_test.yaml"], ids=str)
def test_recipes_name_what_there_is(path: Path) -> None:
    if path.stem in ("published", "free_data"):
        pytest.skip("a base of the recipes beside it")
    recipe = load_recipe(path)
    with torch.device("meta"):
        model = create_model(recipe.model.name, **recipe.model.overrides)
    mixing_config(recipe.data)
    if path.stem.startswith("table3"):
        assert model.config.fusion != "tokens" and model.iterations == 12


@pytest.mark.parametrize("corpus", ["lrs3_wham", "ntcd_timit"])
def test_the_flaws_of_the_published_pipeline_are_there_when_asked_for(corpus: str) -> None:
    """Targets apart from the level they have in the mixture, less next to 8 kHz, the first voice in the noise."""
    rng = np.random.default_rng(0)
    first, second, noise = rng.normal(0, 0.1, (3, 32_000))
    mixture, targets = bin_mixture((first, second), noise, corpus, 10.0, rng)
    np.testing.assert_allclose(np.abs([mixture, *targets]).max(1), 1.0, atol=1e-6)
    share = np.linalg.lstsq(np.stack([*targets, noise], 1), mixture, rcond=None)[0]  # of voices and noise in it
    power = np.square(np.abs(np.fft.rfft(targets[0])))  # (16,001): 0.5 Hz apart
    assert power[15_900:].mean() < 0.4 * power[:15_000].mean()
    assert share[0] < 0.8 and share[1] < 0.8  # the mixture is not the sum of its targets
    raised = 20 * np.log10(share[0] / share[1])
    if corpus == "lrs3_wham":
        assert 0 <= raised <= 10  # up to 5 dB up, and as much down
    else:  # once as himself, once more in the noise
        alone, _ = bin_mixture((first, second), noise - first, corpus, 10.0, rng)
        without = np.linalg.lstsq(np.stack([*targets, noise], 1), alone, rcond=None)[0]
        assert share[0] / share[1] > 1.4 * without[0] / without[1]


@pytest.mark.slow
def test_the_published_recipe_trains_and_halves_on_the_training_loss(tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "cafe_1.wav", np.random.default_rng(0).normal(0, 0.1, 64_000), 16_000)
    content = {
        "model": {"name": "bin_test"},
        "data": {
            "synthetic": {"talkers": 3, "held_out_talkers": 2, "clips_per_talker": 1, "clip_s": 2.0},
            "noises": str(tmp_path / "noise"),
            "mixing": {"segment_s": 0.64, "bin_pipeline": "ntcd_timit"},
        },
        "training": {
            "loss": "si_snr", "schedule": "plateau", "plateau_watches": "loss_of_epoch", "halve_after_epochs": 1,
            "learning_rate": 1.0, "batch_mixtures": 2, "steps_per_epoch": 1, "epochs": 4, "validation_mixtures": 2,
        },
        "output": str(tmp_path / "run"), "licence": "none", "provenance": "a toy",
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    train(path)
    rows = list(csv.DictReader(next((tmp_path / "run" / "log").rglob("metrics.csv")).open()))
    losses = [float(row["loss_of_epoch"]) for row in rows if row.get("loss_of_epoch")]
    best = np.minimum.accumulate(losses)
    halvings = sum(later >= before for before, later in zip(best, losses[1:], strict=False))
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert halvings and last["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5**halvings
    del content["data"]["noises"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match="and name 'noises'"):
        train(path)


@pytest.mark.slow
def test_the_autoencoder_learns_to_give_pictures_back_and_the_separator_goes_on_from_there(tmp_path: Path) -> None:
    content = {
        "model": {"name": "bin_test"},
        "data": {
            "synthetic": {"talkers": 3, "held_out_talkers": 2, "clips_per_talker": 1, "clip_s": 2.0},
            "mixing": {"segment_s": 0.64},
        },
        "training": {
            "loss": "si_snr", "optimiser": "adamw", "schedule": "plateau", "batch_mixtures": 2, "steps_per_epoch": 2,
            "epochs": 1, "validation_mixtures": 2, "frozen_video": True,
        },
        "lip_pictures": {"batch": 4, "steps_per_epoch": 30, "epochs": 1, "output": str(tmp_path / "lips")},
        "output": str(tmp_path / "run"), "licence": "none", "provenance": "a toy",
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    lips = load_model(pretrain(path))
    original, given = (np.load(tmp_path / "lips" / f"{name}.npy") for name in ("original", "reconstruction"))
    fresh, pictures = create_model("bin_test").video_encoder, torch.from_numpy(original)[None]
    with torch.inference_mode():
        error_before = (fresh.decode(fresh(pictures)) - pictures).square().mean()
    assert np.mean(np.square(given - original)) < 0.5 * error_before
    content["model"]["initial_weights"] = str(tmp_path / "lips" / "model")
    path.write_text(yaml.safe_dump(content))
    trained = load_model(train(path))
    for key, value in lips.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]) == key.startswith("video_encoder."), key


def test_twice_as_loud_a_mixture_gives_twice_as_loud_voices() -> None:
    model = create_model("bin_test").eval()
    mixture, lips = torch.randn(1, 8_000), lips_for(model, 13)
    with torch.inference_mode():
        torch.testing.assert_close(model(20 * mixture, lips), 20 * model(mixture, lips), rtol=1e-4, atol=1e-4)


def test_quality_and_masks_over_iterations_are_drawn_and_leave_the_model_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, rng = create_model("bin_test").eval(), np.random.default_rng(0)
    sources = rng.normal(0, 0.1, (2, 16_000)).astype(np.float32)
    lips = rng.normal(size=(2, 25, 32, 32)).astype(np.float32)
    case = Case("m-0", ("ann", "bob"), ("ann", "bob"), (0.0, 0.0), sources.sum(0), sources, lips)
    numbers = numbers_to_try(model)
    assert numbers == [1, 2, 3]
    quality = quality_over_iterations(model, [case], numbers)
    assert read_curves(write_quality(quality, tmp_path / "q.csv"))[1]["SI-SNRi"][2][0] == 3
    model.iterations = 2
    with torch.inference_mode():
        estimates = model(torch.from_numpy(case.mixture)[None], torch.from_numpy(lips)[None])[0]
    references = torch.from_numpy(sources)
    gain = si_snr(estimates, references) - si_snr(torch.from_numpy(case.mixture).expand(2, -1), references)
    assert quality[2] == pytest.approx(float(gain.mean()), abs=1e-3)
    masks = masks_over_iterations(model, case, numbers)
    clean = encoded_voices(model, case)  # the panel of Fig. 2 beside the masks
    assert [voice.shape[0] for voice in clean.values()] == [model.config.audio_channels] * 2
    assert model.iterations == 2
    assert not np.allclose(masks[1]["ann"], masks[3]["ann"])
    assert all(
        path.stat().st_size > 1000 for path in draw_masks_over_iterations(masks, clean, case, tmp_path / "masks")
    )
    with pytest.raises(ModelError, match="no number of iterations"):
        numbers_to_try(create_model("dolphin_test"))
