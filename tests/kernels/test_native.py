"""The library of compiled kernels: who may use it, and that without it nothing else changes."""

from __future__ import annotations

import os

import pytest
import torch
from agreement import assert_close
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lipsep.kernels import native
from lipsep.kernels.exporting import exporting
from lipsep.kernels.relative_attention import attention
from lipsep.layers.afrcnn import AFRCNN
from lipsep.layers.relative_attention import RelativeAttention
from lipsep.losses import negative_si_snr
from lipsep.models import create_model

needs_kernels = pytest.mark.skipif(not native.takes(), reason=native.status())


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
    layer = RelativeAttention(32, 2, 1.0, 0.0)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        layer(torch.randn(1, 10, 32), torch.randn(8, 16))
    linear, products = 4 * 10 * 32 * 32, 2 * 10 * 10 * 16 * 2
    assert counter.get_total_flops() // 2 >= linear + products


@needs_kernels
def test_other_precisions_are_left_to_pytorch() -> None:
    x = torch.randn(3)
    assert native.takes(x, None, nn.Parameter(x))
    assert not native.takes(x, x.double()) and not native.takes(x.half()) and not native.takes(x.to("meta"))
    with exporting():
        assert not native.takes(x)


@pytest.mark.parametrize(
    ("compiler", "word"),
    [("", "no C++ compiler was found"), ("/nowhere/c++", "No such file"), ("false", "could not compile")],
)
def test_without_a_working_compiler_pytorch_works_alone(
    compiler: str, word: str, fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LIPSEP_NATIVE", raising=False)
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    else:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    assert not native.takes(torch.zeros(1))
    assert word in native.status() and "\n" not in native.status()
    y = attention(*torch.randn(3, 2, 5, 16), None, 0.0)
    assert y.shape == (2, 5, 16)
    assert not list(os.scandir(tmp_path / "lipsep")) if compiler else True


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
def test_half_precision_is_left_to_pytorch() -> None:
    torch.manual_seed(0)
    block, x = AFRCNN(16, 32, 16, 3), torch.randn(2, 24, 16)
    expected = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x)
    found.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_a_report_compiles_nothing_that_nobody_needed(fresh: None) -> None:
    assert native.status() == "not needed"
    found = native.takes(torch.zeros(1))
    assert (native.status() == "compiled for this processor") == found
