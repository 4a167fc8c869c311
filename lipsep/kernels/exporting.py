"""While a model is exported, every operation takes its exported form: the one in operators that ONNX has.

Within `exporting()`, in the thread that entered it, `is_exporting()` is what choosers ask. Methods of tensors that
PyTorch's tracing exporter takes down wrongly are then made of others that it takes down well: sizes handed to
`unflatten` would be fixed, `flatten` and `movedim` would count axes of an unknown number, `mT` is unknown to it.
(Counting from the end, as `repeat_interleave(n, dim=-1)` does, makes the exporter change every other -1 of the graph:
such axes have positive numbers in exported forms and in the models that are exported.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_EXPORTING = ContextVar("exporting", default=False)


def is_exporting() -> bool:
    """Whether operations take their exported form here and now."""
    return _EXPORTING.get()


@contextmanager
def exporting() -> Iterator[None]:
    """Within, operations take their exported form; other threads go on as they did."""
    token = _EXPORTING.set(True)
    try:
        with _TraceableShapes():
            yield
    finally:
        _EXPORTING.reset(token)


class _TraceableShapes(TorchFunctionMode):
    """Methods that change shapes, made of `reshape`, `permute` and `transpose`."""

    def __torch_function__(
        self, function: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _TRACEABLE.get(function, function)(*args, **(kwargs or {}))


def _flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    after = end_dim % x.ndim + 1
    return x.reshape(*x.shape[:start_dim], math.prod(x.shape[start_dim:after]), *x.shape[after:])


def _unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    dim %= x.ndim
    known = math.prod(size for size in sizes if isinstance(size, Tensor) or size != -1)
    sizes = [size if isinstance(size, Tensor) or size != -1 else x.shape[dim] // known for size in sizes]
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def _movedim(x: Tensor, source: int, destination: int) -> Tensor:
    order = list(range(x.ndim))
    order.insert(destination % x.ndim, order.pop(source))
    return x.permute(order)


def _mt(x: Tensor) -> Tensor:
    return x.transpose(x.ndim - 2, x.ndim - 1)


_TRACEABLE: dict[Any, Callable[..., Any]] = {
    Tensor.flatten: _flatten,
    Tensor.unflatten: _unflatten,
    Tensor.movedim: _movedim,
    Tensor.mT.__get__: _mt,  # type: ignore[attr-defined]
}
