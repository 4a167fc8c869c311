"""The compiled kernels say what PyTorch says, and where there are none nothing else changes."""

from __future__ import annotations

import math
import os
import platform
import shlex
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lipsep.encoders.dp_lipcoder import Stem
from lipsep.kernels import native
from lipsep.kernels.attention import AttendNatively, scaled_attention
from lipsep.kernels.taylor import TaylorAttention
from lipsep.layers import fused_norm, relative_attention, stretching
from lipsep.layers.afrcnn import AFRCNN, Adapt
from lipsep.layers.channels_last import DepthwiseConv, GlobalNorm, stretch_to, unstretch_to
from lipsep.layers.conv_glu import ConvGLU, conv_glu
from lipsep.layers.dropout import Dropout
from lipsep.layers.heat import HeatDiffusion, diffuse
from lipsep.layers.heat_ends import HeatAndGate, ReleaseHeat
from lipsep.layers.prelu import PReLU
from lipsep.losses import negative_si_snr
from lipsep.models import create_model

needs_kernels = pytest.mark.skipif(not native.takes(), reason=native.status())


@pytest.fixture
def fresh() -> Iterator[None]:
    """The library is looked for anew in this test, and again after it."""
    native._library.cache_clear()
    yield
    native._library.cache_clear()


@pytest.fixture(scope="module", params=["", "-mno-avx512f"])
def vectors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels for this processor, and for one with vectors half as wide."""
    if request.param and platform.machine() != "x86_64":
        pytest.skip("vectors of two widths are for x86 processors")
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setenv("CXX", f"{shlex.join(native._compiler())} {request.param}")
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        native._library.cache_clear()
        assert native.takes(), native.status()
        yield
    native._library.cache_clear()


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 5e-6) -> None:
    """Within a share of the largest number, or of 1."""
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= tolerance * max(expected.abs().max().item(), 1.0)


def assert_same_with_gradients(function, plain, inputs: list[Tensor], tolerance: float = 5e-6) -> None:
    """`function` in 32 bits and `plain` in 64: their results, and their gradients by all inputs."""
    ours = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    found, expected = function(*ours), plain(*exact)
    assert_close(found, expected, tolerance)
    direction = torch.randn_like(found)
    found.backward(direction)
    expected.backward(direction.double())
    for x, y in zip(ours, exact, strict=True):
        assert_close(x.grad, y.grad, tolerance)
    with torch.inference_mode():
        assert_close(function(*inputs), expected.detach(), tolerance)


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, distances: Tensor | None = None, keep: Tensor | None = None
) -> Tensor:
    logits = q @ k.mT
    if distances is not None:
        steps = torch.arange(q.shape[1])
        logits = logits + torch.einsum("nie,eij->nij", q, distances[:, len(steps) - 1 - steps[:, None] + steps])
    weights = logits.softmax(-1)
    return (weights if keep is None else weights * keep) @ v


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("with_positions", [True, False])
@pytest.mark.parametrize(("n", "length", "d"), [(2, 1, 16), (3, 7, 8), (2, 33, 24), (5, 130, 16), (1, 64, 32)])
def test_attention(n: int, length: int, d: int, with_positions: bool, threads: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(n, length, d) for _ in range(3)]
    inputs[0] *= d**-0.5
    if with_positions:
        inputs.append(torch.randn(d, 2 * length - 1))

    def ours(q: Tensor, k: Tensor, v: Tensor, distances: Tensor | None = None) -> Tensor:
        return AttendNatively.apply(q, k, v, distances, 0.0)

    assert_same_with_gradients(ours, plain_attention, inputs)


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize(("queries", "keys", "d"), [(1, 5, 8), (9, 125, 32), (40, 3, 16)])
def test_attention_to_another_number_of_keys(queries: int, keys: int, d: int, threads: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, queries, d), *torch.randn(2, 2, 3, keys, d)]
    assert_same_with_gradients(scaled_attention, F.scaled_dot_product_attention, inputs)


def dropped_by(seed: int, p: float, shape: tuple[int, ...]) -> Tensor:
    """What the kernels drop, as a float64 mask that holds 1 / (1 - p) for what they keep."""
    ones, kept = torch.ones(shape), torch.empty(shape)
    native.run("drop", ones, kept, ones.numel(), seed, p)
    return kept.double()


@needs_kernels
@pytest.mark.usefixtures("vectors")
def test_attention_and_gate_drop_the_same_forth_and_back(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    torch.manual_seed(0)
    n, length, d, p, seed = 3, 41, 16, 0.3, 2**61 + 12345
    monkeypatch.setattr(native, "draw_seed", lambda _: seed)
    assert_same_with_gradients(
        lambda *given: AttendNatively.apply(*given, p),
        lambda *given: plain_attention(*given, dropped_by(seed, p, (n, length, length))),
        [*(torch.randn(n, length, d) for _ in range(3)), torch.randn(d, 2 * length - 1)],
    )
    conv = DepthwiseConv(64, 3)
    assert_same_with_gradients(
        lambda *given: ConvGLU.apply(*given, p),
        lambda x, *filters: F.glu(depthwise(x, *filters), dim=2) * dropped_by(seed, p, (2, 70, 32)),
        [torch.randn(2, 70, 64), conv.weight.detach(), conv.bias.detach()],
    )


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("p", [0.05, 0.5])
def test_what_is_dropped_is_as_good_as_random(p: float) -> None:
    side, tolerance = 1_000, 5e-3
    first, second = (dropped_by(seed, p, (side, side)).eq(0).double() for seed in (1, 2))
    assert abs(first.mean() - p) < tolerance and abs(second.mean() - p) < tolerance
    assert (first.mean(0) - p).abs().max() < 6 * (p * (1 - p) / side) ** 0.5  # no column is dropped more often
    assert (first.mean(1) - p).abs().max() < 6 * (p * (1 - p) / side) ** 0.5
    pairs = [first[:, 1:] * first[:, :-1], first[1:] * first[:-1], first[:, 16:] * first[:, :-16], first * second]
    assert all(abs(pair.mean() - p**2) < tolerance for pair in pairs)


@needs_kernels
def test_dropout_follows_the_seed_and_its_gradient_follows_dropout() -> None:
    layer, x = Dropout(0.2), torch.ones(1_001, requires_grad=True)
    torch.manual_seed(3)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()) and set(y.tolist()) == {0.0, 1.25}
    torch.manual_seed(3)
    assert torch.equal(layer(x), y)
    assert not torch.equal(layer(x), y)


@needs_kernels
@pytest.mark.usefixtures("vectors")
def test_large_logits_neither_overflow_nor_vanish() -> None:
    q, k, v = (torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    q, k = 30 * q, 30 * k
    assert_close(
        relative_attention.attention(q, k, v, None, 0.0), plain_attention(*(t.double() for t in (q, k, v))), 1e-3
    )


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize(("heads", "frames", "n"), [(1, 1, 2), (2, 3, 25), (4, 2, 484)])
def test_linear_attention(heads: int, frames: int, n: int, threads: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(heads, 8, frames, n) for _ in range(3))

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.permute(0, 2, 3, 1) for x in (q, k, v))  # (heads, frames, n, 8)
        scores = q @ k.mT
        weights = 1 + scores + scores.square() / 2
        return (weights @ v / weights.sum(-1, keepdim=True)).permute(0, 3, 1, 2)

    assert_same_with_gradients(TaylorAttention.apply, plain, [q * 8**-0.5, k, v])


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize(("batch", "frames", "size", "channels"), [(1, 1, 5, 4), (2, 9, 20, 3), (1, 2, 50, 16)])
def test_stem(batch: int, frames: int, size: int, channels: int, threads: int) -> None:
    torch.manual_seed(0)
    lips, weight = torch.randn(batch, frames, size, size), torch.randn(2 * channels, 1, 7, 7, 7)

    def plain(weight: Tensor, bias: Tensor) -> Tensor:
        y = F.conv3d(lips[:, None].double(), weight, bias, padding=3).unflatten(1, (2, -1))
        return y.permute(1, 0, 3, 4, 5, 2)  # (2, B, F, S, S, C)

    bias = torch.randn(2 * channels)
    assert_same_with_gradients(lambda *given: Stem.apply(lips, *given, 2), plain, [weight, bias])


SHAPES = [(2, 1), (1, 2), (3, 32), (2, 33), (1, 100)]  # batch, time; kernels work on 32 steps together


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv1d(x.mT, weight, bias, padding=1, groups=len(weight)).mT


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize(("batch", "time"), SHAPES)
def test_convolution_and_gate(batch: int, time: int, threads: int) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv(96, 3)
    assert_same_with_gradients(
        lambda *given: ConvGLU.apply(*given, 0.0),
        lambda x, weight, bias: F.glu(depthwise(x, weight, bias), dim=2),
        [torch.randn(batch, time, 96), conv.weight.detach(), conv.bias.detach()],
    )
    x = torch.randn(batch, time, 96)
    assert_close(conv_glu(conv, Dropout(0.0), x), F.glu(depthwise(x, conv.weight, conv.bias), dim=2))


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize(("batch", "time"), SHAPES)
def test_before_and_behind_heat_diffusion(batch: int, time: int, threads: int) -> None:
    torch.manual_seed(0)
    operator = HeatDiffusion(64, as_published=False)
    x, gate = torch.randn(2, batch, time, 64)
    first, second, last = (
        [conv.weight.detach(), conv.bias.detach()] for conv in (operator.conv_in, operator.project, operator.conv_out)
    )

    def plain_heat_and_gate(x: Tensor, *filters: Tensor) -> Tensor:
        return depthwise(depthwise(x, *filters[:2]).repeat_interleave(2, dim=-1), *filters[2:])

    def plain_release(heat: Tensor, gate: Tensor, gain: Tensor, offset: Tensor, *filters: Tensor) -> Tensor:
        return depthwise(F.layer_norm(heat, (64,), gain, offset) * F.silu(gate), *filters)

    assert_same_with_gradients(
        lambda *given: torch.cat(HeatAndGate.apply(*given), dim=-1), plain_heat_and_gate, [x, *first, *second]
    )
    assert_same_with_gradients(ReleaseHeat.apply, plain_release, [x, gate, torch.rand(64), torch.randn(64), *last])


@needs_kernels
@pytest.mark.usefixtures("vectors")
def test_gates_may_be_as_open_or_closed_as_they_like() -> None:
    gate = torch.tensor([-1e30, -1e4, -200, -100, -88, -87, -80, 0, 80, 87, 88, 89, 100, 200, 1e4, 1e30])
    conv, x = DepthwiseConv(32, 3), torch.ones(1, 4, 32)
    x[..., 16:] = gate
    conv.weight.data.fill_(0.0)
    conv.weight.data[:, 0, 1] = 1.0
    conv.bias.data.fill_(0.0)
    expected = gate.double().sigmoid().expand(1, 4, 16)
    assert_close(conv_glu(conv, Dropout(0.0), x).detach(), expected, 3e-7)


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize(("batch", "time"), [(2, 1), (1, 2), (3, 9), (2, 64), (1, 101)])
def test_heat_diffusion_by_fft(batch: int, time: int, threads: int) -> None:
    """Also channels whose k is 0, negative (training may get there), or so large that all heat is spread evenly."""
    torch.manual_seed(0)
    k = torch.cat([torch.tensor([0.0, -0.01, 1e4]), torch.empty(13).uniform_(0.01, 2)])

    def plain(x: Tensor, k: Tensor) -> Tensor:
        n, t = torch.arange(time, dtype=torch.float64)[:, None], torch.arange(time, dtype=torch.float64)
        cosines = torch.cos(n * (2 * t + 1) * (math.pi / (2 * time))) * math.sqrt(2 / time)
        cosines[0] /= math.sqrt(2)
        return cosines.mT @ (torch.exp(-k * (math.pi * n / time).square()) * (cosines @ x))

    assert_same_with_gradients(diffuse, plain, [torch.randn(batch, time, 16), k])


@needs_kernels
@pytest.mark.usefixtures("vectors")
def test_nans_stay() -> None:
    """A network with broken weights must be found out, not answer with numbers."""
    q, k, v = (torch.randn(2, 20, 16) for _ in range(3))
    broken = k.clone()
    broken[0, 3, 5] = torch.nan
    y = relative_attention.attention(q, broken, v, None, 0.0)
    assert y[0].isnan().all() and not y[1].isnan().any()
    pixels = torch.randn(3, 2, 8, 3, 20)
    pixels[1, 0, 2, 1, 4] = torch.nan
    y = TaylorAttention.apply(*pixels)
    assert y[0, :, 1].isnan().all() and not y[1].isnan().any()
    conv, x = DepthwiseConv(32, 3), torch.randn(1, 10, 32)
    x[0, 5, 3] = torch.nan
    assert conv_glu(conv, Dropout(0.0), x)[0, 4:7, 3].isnan().all()
    x = torch.randn(2, 10, 32)
    x[0, 5, 3] = torch.nan
    (y,) = fused_norm.convolve_and_normalise(x, (DepthwiseConv(32, 5), GlobalNorm(32, 1e-8)))
    assert y[0].isnan().all() and not y[1].isnan().any()
    assert fused_norm.normalise(x, GlobalNorm(32, 1e-8), PReLU())[0].isnan().all()
    operator, x = HeatDiffusion(32, as_published=False), torch.randn(2, 10, 32)
    x[0, 5, 3] = torch.nan
    y = operator(x)
    assert y[0].isnan().any() and not y[1].isnan().any()


@needs_kernels
def test_a_model_with_and_without_kernels(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = create_model("dolphin", layer_scale_init=0.1, dropout=0.0, visual_dropout=0.0).train()
    mixture, lips, voice = torch.randn(1, 6_400), torch.randn(1, 10, 88, 88), torch.randn(1, 1, 6_400)

    def step() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        y = model(mixture, lips)
        negative_si_snr(y, voice).backward()
        return y.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    y, grads = step()
    monkeypatch.setenv("LIPSEP_NATIVE", "0")
    native._library.cache_clear()
    assert not native.takes(mixture) and "LIPSEP_NATIVE=0" in native.status()
    expected, expected_grads = step()
    assert_close(y, expected, 1e-4)
    ours, theirs = (torch.cat([g[name].flatten() for name in expected_grads]) for g in (grads, expected_grads))
    assert F.cosine_similarity(ours, theirs, dim=0) > 0.9999


@needs_kernels
def test_programs_that_count_operators_see_all_of_them() -> None:
    attention = relative_attention.RelativeAttention(32, 2, 1.0, 0.0)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        attention(torch.randn(1, 10, 32), torch.randn(8, 16))
    linear, products = 4 * 10 * 32 * 32, 2 * 10 * 10 * 16 * 2
    assert counter.get_total_flops() // 2 >= linear + products


@needs_kernels
def test_other_precisions_are_left_to_pytorch() -> None:
    x = torch.randn(3)
    assert native.takes(x, None, nn.Parameter(x))
    assert not native.takes(x, x.double()) and not native.takes(x.half()) and not native.takes(x.to("meta"))


@pytest.mark.parametrize(
    ("compiler", "word"),
    [("", "no C++ compiler was found"), ("/nowhere/c++", "No such file"), ("false", "could not compile")],
)
def test_without_a_working_compiler_pytorch_works_alone(
    compiler: str, word: str, fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    else:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    assert not native.takes(torch.zeros(1))
    assert word in native.status() and "\n" not in native.status()
    y = relative_attention.attention(*torch.randn(3, 2, 5, 16), None, 0.0)
    assert y.shape == (2, 5, 16)
    assert not list(os.scandir(tmp_path / "lipsep")) if compiler else True


# --- Global norms -----------------------------------------------------------------------------------------------------

LENGTHS = [(1, 1), (3, 9), (2, 64), (1, 133)]
"""Recordings and their steps: shorter than a filter reaches, whole pieces, pieces and a rest."""


def assert_layers_close(function, layers: list[nn.Module], x: Tensor) -> None:
    """What `function` makes of x, and the gradients by x and the layers' parameters: in 32 bits as in 64."""
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    with torch.no_grad():
        for parameter in parameters:
            if parameter.numel() > 1:
                parameter.uniform_(-1.5, 1.5)
    results, directions = [], None
    for dtype in (torch.float32, torch.float64):
        for layer in layers:
            layer.to(dtype)
        inputs = x.to(dtype).requires_grad_()
        found = function(inputs)
        directions = directions or [torch.randn_like(y) for y in found]
        total = sum((y * direction.to(dtype)).sum() for y, direction in zip(found, directions, strict=True))
        results.append([*found, *torch.autograd.grad(total, [inputs, *parameters])])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, 2e-5)


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, None])
@pytest.mark.parametrize(("batch", "time"), LENGTHS)
def test_global_norm_and_prelu(batch: int, time: int, slope: float | None, threads: int) -> None:
    torch.manual_seed(0)
    norm, act = GlobalNorm(48, eps=1e-8), nn.Identity()
    if slope is not None:
        act = PReLU()
        act.load_state_dict({"weight": torch.tensor([slope])})
    x = torch.randn(batch, time, 48) * 3 + 20 * torch.randn(batch, 1, 1)
    assert "NormPReLU" in fused_norm.normalise(x, norm, act).grad_fn.name()
    assert_layers_close(lambda x: [fused_norm.normalise(x, norm, act)], [norm, act], x)


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize(("batch", "time"), LENGTHS)
def test_gain_and_prelu(batch: int, time: int, threads: int) -> None:
    torch.manual_seed(0)
    adapt = Adapt(48)
    assert_layers_close(lambda x: [adapt(x)], [adapt], torch.randn(batch, time, 48))


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("batch", "time"), LENGTHS)
def test_convolutions_of_one_sequence_and_their_norms(batch: int, time: int, stride: int, threads: int) -> None:
    torch.manual_seed(0)
    layers = [(DepthwiseConv(48, 5, stride), GlobalNorm(48, eps=1e-5)) for _ in range(2)]
    flat = [layer for pair in layers for layer in pair]
    assert_layers_close(lambda x: fused_norm.convolve_and_normalise(x, *layers), flat, torch.randn(batch, time, 48))


@needs_kernels
@pytest.mark.parametrize("recompute", [False, True])
def test_a_block_trains_as_without_kernels(fresh: None, recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block, x = AFRCNN(16, 32, 16, 4), torch.randn(2, 51, 16)

    def run() -> list[Tensor]:
        inputs = x.clone().requires_grad_()
        y = checkpoint(block, inputs, use_reentrant=False) if recompute else block(inputs)
        return [y, *torch.autograd.grad(y.square().sum() + y.sum(), [inputs, *block.parameters()])]

    found = run()
    monkeypatch.setenv("LIPSEP_NATIVE", "0")
    native._library.cache_clear()
    for ours, expected in zip(found, run(), strict=True):
        assert_close(ours, expected, 1e-4)


@needs_kernels
def test_half_precision_is_left_to_pytorch_and_gradients_of_gradients_are_refused() -> None:
    torch.manual_seed(0)
    block, x = AFRCNN(16, 32, 16, 3), torch.randn(2, 24, 16)
    expected = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x)
    found.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())
    assert (found - expected).norm() < 0.05 * expected.norm()
    inputs = torch.randn(2, 5, 16, requires_grad=True)
    y = fused_norm.normalise(inputs, GlobalNorm(16, 1e-8), PReLU())
    (grad,) = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@needs_kernels
@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("length", [1601, 1600, 7, 98])
def test_sequences_stretched_and_added_and_the_transpose(length: int, threads: int) -> None:
    torch.manual_seed(0)
    lengths = [-(-length // 2**i) for i in range(1, 6)] + [-(-length // 49)]
    y, x = torch.randn(2, 2, length, 16)
    parts = [torch.randn(2, n, 16) for n in lengths]
    expected = y.double()
    for part in parts:
        expected = expected + stretch_to(part.double(), length)
    with torch.no_grad():
        assert_close(stretching.add_stretched(y.clone(), parts), expected)
    for n, found in zip([length, *lengths], stretching.unstretch_all(x, [length, *lengths]), strict=True):
        assert_close(found, unstretch_to(x.double(), n))


def test_a_report_compiles_nothing_that_nobody_needed(fresh: None) -> None:
    assert native.status() == "not needed"
    found = native.takes(torch.zeros(1))
    assert (native.status() == "compiled for this processor") == found
