"""Windows through the model in batches, smaller ones where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from lipsep.constants import FPS, SAMPLES_PER_FRAME
from lipsep.errors import ModelError


def side_by_side(pictures, people: list[int | None]) -> np.ndarray:
    """The pictures of several people, neutral ones (zeros) at empty places. -> (n, ...)"""
    neutral = np.zeros_like(pictures[people[0]])
    return np.stack([neutral if k is None else pictures[k] for k in people])


class BatchedModel:
    """The model on its device, fed in batches that shrink when memory runs out."""

    def __init__(self, model, device, batch: int, workers: int, warn: Callable[[str], None]) -> None:
        self.model, self.device, self.batch, self.workers, self.warn = model, device, batch, workers, warn

    def __call__(self, inputs: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
        """[(mixture (T,), lips (F, H, W) or (n, F, H, W), faces where needed), ...] -> [estimates (n, T), ...]"""
        results: list[np.ndarray] = []
        while len(results) < len(inputs):
            part = inputs[len(results) : len(results) + self.batch]
            estimates = self._side_by_side(part)
            if estimates is None:
                self._halve(len(part), len(part[0][0]))
            else:
                results.extend(estimates)
        return results

    def _side_by_side(self, part: list[tuple[np.ndarray, ...]]) -> np.ndarray | None:
        """One batch, divided among the workers -> (B, n, T), or None when memory ran out."""
        size = -(-len(part) // self.workers)
        shares = [part[start : start + size] for start in range(0, len(part), size)]
        if len(shares) == 1:
            return self._forward(part)
        n_threads = torch.get_num_threads()
        own_threads = max(1, n_threads // len(shares))
        try:
            with ThreadPoolExecutor(len(shares), initializer=torch.set_num_threads, initargs=(own_threads,)) as pool:
                found = list(pool.map(self._forward, shares))
        finally:
            torch.set_num_threads(n_threads)  # what a thread sets for itself, those started later begin with
        return None if any(estimates is None for estimates in found) else np.concatenate(found)

    def _forward(self, part: list[tuple[np.ndarray, ...]]) -> np.ndarray | None:
        """One stack -> (B, n, T), or None when memory ran out."""
        given = [torch.from_numpy(np.stack(each)) for each in zip(*part, strict=True)]
        mixture, lips = given[:2]  # (B, T), (B, F, H, W) or (B, n, F, H, W)
        try:
            with torch.inference_mode():
                estimates = self.model(*(x.to(self.device) for x in given)).float().cpu().numpy()
        except (RuntimeError, MemoryError) as error:  # torch.cuda.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
            return None
        n_voices = lips.shape[1] if self.model.faces_at_once else 1
        needed = (len(part), n_voices, mixture.shape[1])
        if estimates.shape != needed:
            raise ModelError(f"{type(self.model).__name__} returned shape {estimates.shape}, needed {needed}")
        if not np.isfinite(estimates).all():
            raise ModelError(f"{type(self.model).__name__} returned values that are not finite: damaged weights?")
        return estimates

    def _halve(self, n_tried: int, n_samples: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if n_tried == 1:
            raise ModelError(
                f"out of memory on {self.device} with a single window of {n_samples / SAMPLES_PER_FRAME / FPS:g} s: "
                "use a smaller model, a shorter window, or --device cpu"
            )
        self.batch = n_tried // 2
        self.warn(f"out of memory on {self.device} with {n_tried} windows at once: going on with {self.batch}")


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or any(
        sign in text
        for sign in (
            "out of memory",
            "defaultcpuallocator",
            "not enough memory",
            "could not create a primitive",
        )  # oneDNN
    )
