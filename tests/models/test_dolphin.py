"""Dolphin against golden tensors of the published code, and its own parts against their definitions."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import fill_manifest, golden_audio, golden_video, hash_uniform, snr_db
from places import ROOT
from torch import Tensor, nn

from lipsep.encoders import list_encoders
from lipsep.encoders.dp_lipcoder import DPLipCoder, LinearSpaceAttention, LipDecoder
from lipsep.encoders.vector_quantizer import VectorQuantizer
from lipsep.errors import ModelError, WeightsError
from lipsep.kernels.arranged import Arranged
from lipsep.kernels.memory_saving import STEPS_AT_ONCE
from lipsep.layers.heat import HeatDiffusion
from lipsep.layers.relative_attention import RelativeAttention
from lipsep.models import create_model
from lipsep.models.dolphin import Dolphin, DolphinConfig, FeedForward
from lipsep.models.keys.dolphin import released_key
from lipsep.models.released import released_model

CASES = ("a_b1_16000", "b_b2_32000", "c_b1_17345_27", "d_b2_16000")


@pytest.fixture(scope="module")
def filled(shared: Path) -> dict[str, Tensor]:
    return fill_manifest(shared / "reference" / "dolphin" / "dolphin_state_manifest.json")


@pytest.fixture(scope="module")
def published(filled: dict[str, Tensor]) -> Dolphin:
    return released_model("dolphin", [filled]).eval()


# --- Parity ----------------------------------------------------------------------------------------------------------


def test_the_fill_gives_the_quoted_numbers() -> None:
    assert hash_uniform(0, 2).tolist() == [-0.3381372303701937, 0.7632746244780719]
    assert hash_uniform(1234, 1)[0] == -0.815962319727987
    torch.testing.assert_close(golden_audio(1, 2)[0], torch.tensor([0.0856952295, 0.1605345607]))
    torch.testing.assert_close(golden_video(1, 2)[0, 1, 10, 20:22], torch.tensor([-0.0624266528, -0.5718587637]))


def test_parameters_are_those_of_the_paper() -> None:
    model = create_model("dolphin")
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert sum(count.values()) == 7_000_448
    assert count["video_encoder"] == 781_818
    assert sum(p.numel() for p in model.video_encoder.reconstruction.parameters()) == 141_133


def landmarks(model: Dolphin) -> dict[str, tuple[nn.Module, Callable]]:
    """The module behind each golden tensor, and how its output gets the published layout."""

    def same(x: Tensor) -> Tensor:
        return x

    def channels_first(x: Tensor) -> Tensor:
        return x.movedim(-1, 1)

    encoder, separator = model.video_encoder, model.separator
    block = separator.encoder[0].blocks[0]
    found: dict[str, tuple[nn.Module, Callable]] = {
        "recon_out": (encoder.reconstruction, channels_first),
        "sem_z_proj": (encoder.quantizer.project_in, same),
        "sem_out": (encoder.quantizer.project_out, same),
        "sem_codes": (encoder.quantizer, lambda quantized: quantized.codes.unsqueeze(-1)),
        "video_encoder_out": (encoder, same),
        "pre_v1": (model.video_projection, channels_first),
        "video_blocks": (model.visual_fusion, channels_first),
        "audio_encoder": (model.audio_encoder, channels_first),
        "feature_projector": (model.audio_projection, channels_first),
        "modalfuse": (model.av_fusion, channels_first),
        "enc0_g1_DU_MHSA": (block.coarse_attention, same),
        "enc0_g1": (block.global_ffn, channels_first),
        "enc0_l1_heat": (block.heat_attention.heat, same),
        "enc0_l1_CLA": (block.heat_attention, same),
        "enc0_l1": (block.local_ffn, same),
        "bottleneck_attn": (separator.global_attention, same),
        "bottleneck_ffn": (separator.global_ffn, same),
        "out_layer": (model.output_layer, channels_first),
        "output": (model, same),
    }
    for prefix, path in (("sem", encoder.semantic), ("rec", encoder.reconstruction)):
        found[f"{prefix}_layer9"] = (path.norm, channels_first)
        for i, layer in enumerate(path.layers):
            found[f"{prefix}_layer{i}"] = (layer, channels_first)
    for i in range(4):
        found[f"enc{i}_out"] = (separator.encoder[i], lambda outputs: outputs[0].movedim(-1, 1))
        found[f"enc{i}_skip"] = (separator.encoder[i], lambda outputs: outputs[1].movedim(-1, 1))
        found[f"loc_glo_fus{i}"] = (separator.skip_fusions[i], channels_first)
        found[f"simple_fusion{i}"] = (separator.decoder[i].fusion, channels_first)
        found[f"dec{i}"] = (separator.decoder[i], channels_first)
    return found


def run_with_landmarks(model: Dolphin, mixture: Tensor, lips: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def watch(name: str, view: Callable) -> Callable:
        return lambda _module, _inputs, output: seen.__setitem__(name, view(output))

    hooks = [module.register_forward_hook(watch(name, view)) for name, (module, view) in landmarks(model).items()]
    for prefix, path in (("sem", model.video_encoder.semantic), ("rec", model.video_encoder.reconstruction)):
        watch_input = watch(f"{prefix}_conv_in", lambda x: x.movedim(-1, 1))
        hooks.append(path.register_forward_pre_hook(lambda _, inputs, see=watch_input: see(None, None, *inputs)))
    hooks.append(
        model.video_encoder.quantizer.register_forward_pre_hook(lambda _, inputs: seen.__setitem__("sem_z_e", *inputs))
    )
    with torch.inference_mode():
        model(mixture, lips)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("prepared", [False, True], ids=["plain", "prepared"])
@pytest.mark.parametrize("case", CASES)
def test_golden_case(case: str, prepared: bool, published: Dolphin, filled: dict[str, Tensor], shared: Path) -> None:
    folder = shared / "reference" / "dolphin"
    index = json.loads((folder / "dolphin_index.json").read_text())
    size, stored = index["cases"][case], index["tensors"][case]
    model = published
    if prepared:
        model = released_model("dolphin", [filled]).prepare_for_inference()
    mixture = golden_audio(size["batch"], size["samples"])
    seen = run_with_landmarks(model, mixture, golden_video(size["batch"], size["frames"]))
    assert seen["output"].shape[-1] == size["samples"]
    exact = np.load(folder / f"dolphin_exact_f64_{case}.npz")
    official = np.load(folder / f"dolphin_official_f32_{case}.npz")
    assert set(exact.files) >= {"output", "sem_codes", "dec3", "bottleneck_ffn"}
    for name in exact.files:
        shape = stored[name]["shape"]
        found = seen[name][..., : shape[-1]] if name == "output" else seen[name]
        assert list(found.shape) == shape, name
        found = found.reshape(-1)[:: stored[name]["flat_stride"]]
        reference = torch.from_numpy(exact[name]).reshape(-1)
        if name == "sem_codes":
            assert torch.equal(found, reference.long())
            continue
        assert snr_db(reference, found) >= 85, name
        assert (reference - found).abs().max() <= 2e-3, name
        assert snr_db(torch.from_numpy(official[name]).reshape(-1), found) >= 50, name


def test_odd_lengths_reproduce_the_published_samples_and_end_in_zeros(published: Dolphin) -> None:
    mixture, lips = golden_audio(1, 8_003), golden_video(1, 12)
    with torch.inference_mode():
        longer, whole = published(mixture, lips), published(mixture[:, :8_000], lips)
    assert torch.equal(longer[..., 8_000:], torch.zeros(1, 1, 3))
    assert snr_db(whole, longer[..., :8_000]) > 85


# --- Published weights -----------------------------------------------------------------------------------------------


def test_every_published_key_has_a_home_and_only_one(filled: dict[str, Tensor]) -> None:
    names = [released_key(key) for key in create_model("dolphin").state_dict()]
    assert len(names) == len(set(names))
    assert set(names) == set(filled)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("modalfuse.resize.act.weight"), "lack key 'modalfuse.resize.act.weight'"),
        (lambda state: state.update({"aux_head.weight": torch.zeros(1)}), "unexpected key 'aux_head.weight'"),
        (
            lambda state: state.update({"pre_v1.conv.weight": torch.zeros(64, 3872, 5)}),
            r"'pre_v1.conv.weight' of shape \(64, 3872, 5\); \(64, 3872, 3\) is needed",
        ),
    ],
)
def test_a_misfitting_published_key_is_named(damage: Callable, message: str, filled: dict[str, Tensor]) -> None:
    state = dict(filled)
    damage(state)
    with pytest.raises(WeightsError, match=message):
        released_model("dolphin", [state])


# --- Layers (their operations alone: tests/kernels) -------------------------------------------------------------------


def test_what_was_prepared_still_trains() -> None:
    operator, x = HeatDiffusion(4, as_published=False), torch.randn(1, 50, 4)
    operator.prepare_for_inference()
    with torch.no_grad():
        operator.k.mul_(3)
    operator(x).sum().backward()
    assert operator.k.grad is not None and operator.k.grad.any()
    unprepared = HeatDiffusion(4, as_published=False)
    unprepared.load_state_dict(operator.state_dict())
    assert torch.equal(operator(x), unprepared(x))


@pytest.mark.parametrize("reach", [5, 2_000])
@pytest.mark.parametrize("length", [1, 2, 33, 37, 300])
def test_relative_attention_equals_the_formula_with_an_l_l_d_tensor(length: int, reach: int) -> None:
    attention = RelativeAttention(8, 2, layer_scale_init=0.5, dropout=0.0)
    x, relative = torch.randn(2, length, 8), torch.randn(2 * reach, 4)
    y = attention.norm(x)
    q, k, v = (to(y).view(2, length, 2, 4).transpose(1, 2) for to in (attention.to_q, attention.to_k, attention.to_v))
    steps = torch.arange(length)
    positions = relative[(steps[:, None] - steps).clamp(-reach, reach - 1) + reach]  # (L, L, d)
    logits = (q @ k.mT + torch.einsum("bhid,ijd->bhij", q, positions)) / 2
    expected = 0.5 * attention.to_out((logits.softmax(-1) @ v).transpose(1, 2).reshape(2, length, 8))
    torch.testing.assert_close(attention(x, relative), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(attention(x, relative), expected, rtol=1e-4, atol=1e-5)


def test_the_plain_form_gives_the_same_voices_and_gradients() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from plain_dolphin import plain_dolphin
    finally:
        sys.path.pop(0)
    torch.manual_seed(0)
    model = create_model("dolphin_test").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            if name.endswith(".k"):
                parameter.uniform_(0.1, 1.9)
    plain, mixture, lips = plain_dolphin(model), torch.randn(2, 4000), torch.randn(2, 6, 32, 32)
    voices = [network(mixture, lips) for network in (model, plain)]
    torch.testing.assert_close(*voices, rtol=0, atol=1e-5)
    for each in voices:
        each.square().sum().backward()
    theirs = dict(plain.named_parameters())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    largest = max(float(grad.abs().max()) for grad in gradients.values())
    for name, grad in gradients.items():
        expected = torch.zeros_like(grad) if theirs[name].grad is None else theirs[name].grad.view_as(grad)
        torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-5 * largest)


def test_linear_attention_weighs_by_the_taylor_expansion_of_exp() -> None:
    layer = LinearSpaceAttention(4)
    x = torch.randn(1, 2, 5, 5, 4)
    pixels = layer.norm(x).view(2, 25, 4)
    q, k, v = (
        part.view(2, 25, 16, 8).transpose(1, 2) for part in (layer.to_q(pixels), *layer.to_kv(pixels).chunk(2, dim=-1))
    )
    logits = q @ k.mT / math.sqrt(8)
    weights = 1 + logits + logits**2 / 2
    out = (weights / weights.sum(-1, keepdim=True)) @ v
    expected = x + layer.to_out(out.transpose(1, 2).reshape(2, 25, 128)).view_as(x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


# --- DP-LipCoder -----------------------------------------------------------------------------------------------------


def test_a_fresh_codebook_stays_as_it_is_in_evaluation() -> None:
    quantizer = VectorQuantizer(12, n_codes=8, code_dim=4).eval()
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    features = torch.randn(2, 10, 12)
    first, second = quantizer(features), quantizer(features)
    assert torch.equal(first.features, second.features)
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


def test_gradients_pass_straight_through_the_quantizer() -> None:
    quantizer = VectorQuantizer(12, n_codes=8, code_dim=4).train()
    features = torch.randn(2, 10, 12, requires_grad=True)
    quantized = quantizer(features)
    weights = torch.randn_like(quantized.features)
    (quantized.features * weights).sum().backward()
    expected = weights @ quantizer.project_out.weight @ quantizer.project_in.weight
    torch.testing.assert_close(features.grad, expected)


@pytest.mark.parametrize(("kind", "paths"), [("dp_lipcoder", 2), ("lipcoder", 1), ("reconstruction", 1)])
def test_video_encoder_variants(kind: str, paths: int) -> None:
    encoder = DPLipCoder(kind, lip_size=32).eval()
    assert sum(path is not None for path in (encoder.semantic, encoder.reconstruction)) == paths
    assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, 3, 32 * 4 * 4)


@pytest.mark.parametrize("lip_size", [32, 30, 88])
def test_the_decoder_mirrors_the_encoder_and_learns(lip_size: int) -> None:
    torch.manual_seed(0)
    encoder = DPLipCoder("reconstruction", lip_size, gate_bias=0.0)
    decoder = LipDecoder(lip_size, gate_bias=0.0)
    lips = golden_video(1, 3, lip_size)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
    losses = []
    for _ in range(12):
        pictures = decoder(encoder(lips))
        assert pictures.shape == lips.shape
        loss = (pictures - lips).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert losses[-1] < 0.8 * losses[0]


def test_an_unknown_video_encoder_or_layer_is_refused() -> None:
    with pytest.raises(ModelError, match=f"unknown video encoder 'resnet'; known: {', '.join(list_encoders())}$"):
        create_model("dolphin_test", video_encoder="resnet")
    with pytest.raises(ModelError, match="unknown video layer 'pool'"):
        create_model("dolphin_test", video_layers=["residual", "pool"])


def test_masking_scales_the_encoded_mixture() -> None:
    model = create_model("dolphin_test", masking=True).eval()
    assert torch.equal(model(torch.zeros(1, 6400), torch.randn(1, 10, 32, 32)), torch.zeros(1, 1, 6400))


def test_feed_forward_networks_need_no_gradients_to_drop_or_to_be_right() -> None:
    torch.manual_seed(0)
    network = FeedForward(DolphinConfig(layer_scale_init=1.0, dropout=0.3))
    x = torch.randn(2, STEPS_AT_ONCE // 2, 128)
    for training in (True, False):
        network.train(training)
        torch.manual_seed(1)  # what is dropped
        expected = network(x).detach()
        torch.manual_seed(1)
        with torch.no_grad():
            torch.testing.assert_close(network(x), expected)
    x = torch.randn(2, STEPS_AT_ONCE + 7, 128)
    expected = network(x).detach()
    for layer in network.modules():
        if isinstance(layer, Arranged):
            layer.prepare_for_inference()
    with torch.inference_mode():
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
