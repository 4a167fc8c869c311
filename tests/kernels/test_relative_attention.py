"""Attention with relative positions and without: all forms say what the definition says."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from agreement import assert_close, assert_forms_agree
from torch import Tensor

from lipsep.kernels import native, relative_attention
from lipsep.kernels.relative_attention import (
    AttendAgain,
    AttendNatively,
    attention,
    plain_relative_attention,
    scaled_attention,
)

KERNELS = "attend", "attend_backward"


@pytest.mark.parametrize("reach", [None, 5, 200], ids=["no_positions", "near", "far"])
@pytest.mark.parametrize(("heads", "length", "d"), [(2, 1, 16), (3, 7, 8), (2, 33, 24), (5, 130, 16), (1, 64, 32)])
def test_all_forms_agree(form, heads: int, length: int, d: int, reach: int | None) -> None:
    """With an (L, L, d) tensor of positions, as Shaw et al. have it."""
    inputs = [torch.randn(2, heads, length, d) for _ in range(3)]
    if reach is not None:
        inputs.append(torch.randn(2 * reach, d))

    def ours(q: Tensor, k: Tensor, v: Tensor, relative: Tensor | None = None) -> Tensor:
        return relative_attention.relative_attention(q, k, v, relative, 0.0)

    plain = plain_relative_attention if reach is not None else partial(plain_relative_attention, relative=None)
    assert_forms_agree(ours, plain, inputs, 1e-5)
    form.assert_ran(*KERNELS)


@pytest.mark.parametrize(("queries", "keys", "d"), [(1, 5, 8), (9, 125, 32), (40, 3, 16)])
def test_all_forms_agree_with_another_number_of_keys(form, queries: int, keys: int, d: int) -> None:
    inputs = [torch.randn(2, 3, queries, d), *torch.randn(2, 2, 3, keys, d)]
    assert_forms_agree(scaled_attention, partial(plain_relative_attention, relative=None), inputs)
    form.assert_ran(*KERNELS)


def test_heads_that_are_too_large_for_the_kernels_are_left_to_pytorch(form) -> None:
    inputs = [torch.randn(1, 2, 9, 40) for _ in range(3)]
    assert_forms_agree(scaled_attention, partial(plain_relative_attention, relative=None), inputs)
    assert not form.ran


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_is_made_again_in_the_backward_pass_has_the_right_gradients(
    length: int, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relative_attention, "QUERIES_AT_ONCE", 2)
    monkeypatch.setattr(relative_attention, "LOGITS_AT_ONCE", 6 * length)  # pieces of 3 heads and 2 rows
    q, k, v = (torch.randn(4, length, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    distances = torch.randn(3, 2 * length - 1, dtype=torch.float64, requires_grad=True)

    def attend(*given: Tensor | None) -> Tensor:
        torch.manual_seed(0)  # what is dropped
        return AttendAgain.apply(*given, dropout)

    torch.autograd.gradcheck(attend, (q, k, v, distances))
    torch.autograd.gradcheck(attend, (q, k, v, None))


def test_the_kernels_drop_the_same_forth_and_back(compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    n, length, d, p, seed = 3, 41, 16, 0.3, 2**61 + 12345
    monkeypatch.setattr(native, "draw_seed", lambda _: seed)
    ones, kept = torch.ones(n, length, length), torch.empty(n, length, length)
    native.run("drop", ones, kept, ones.numel(), seed, p)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q @ k.mT).softmax(-1) * kept.double()) @ v

    inputs = [torch.randn(n, length, d) for _ in range(3)]
    assert_forms_agree(lambda q, k, v: AttendNatively.apply(q, k, v, None, p), plain, inputs)


def test_large_logits_neither_overflow_nor_vanish(form) -> None:
    q, k, v = (torch.randn(1, 2, 50, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    q, k = 60 * q, 60 * k
    found = relative_attention.relative_attention(q, k, v, None, 0.0)
    assert_close(found, plain_relative_attention(q.double(), k.double(), v.double(), None), 1e-3)


def test_nans_stay(form) -> None:
    """A network with broken weights must be found out, not answer with numbers."""
    q, k, v = (torch.randn(2, 1, 20, 16) for _ in range(3))
    k[0, 0, 3, 5] = torch.nan
    y = relative_attention.relative_attention(q, k, v, None, 0.0)
    assert y[0].isnan().all() and not y[1].isnan().any()


def test_logits_of_many_heads_are_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "takes", lambda *_: False)
    monkeypatch.setattr(relative_attention, "LOGITS_AT_ONCE", 1)
    q, k, v = torch.randn(3, 4, 70, 8)
    with torch.inference_mode():
        pieces = relative_attention.attend(q, k, v, None)
    assert_close(pieces, attention(q.double(), k.double(), v.double(), None, 0.0))
