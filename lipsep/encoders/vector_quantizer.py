"""A vector quantiser with a codebook learned by moving averages (VQ-VAE, van den Oord et al. 2017, appendix A.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

EMA_DECAY = 0.8
EPS = 1e-5
KMEANS_RUNS = 10  # independent ones, of which the best is kept
KMEANS_ROUNDS = 10  # of each run
TEMPERATURE = 0.1  # of the code sampling in training; distances are divided by it


class Quantized(NamedTuple):
    """What `VectorQuantizer` returns."""

    features: Tensor  # (B, F, dim): the chosen code words, projected back
    codes: Tensor  # (B, F) int64
    vectors: Tensor  # (B, F, code_dim): the projected features, which learn by the commitment to their code words
    words: Tensor  # (B, F, code_dim): the chosen code words; they have a gradient where the codebook learns by one


class VectorQuantizer(nn.Module):
    """Project to a few dimensions, replace each vector by a code word, project back.

    In evaluation mode the nearest code word (Euclidean) is taken and nothing is changed. In training mode the code word
    is drawn with probability softmax(-distance / TEMPERATURE), gradients pass straight through, and the codebook
    follows the vectors that chose it: by moving averages (decay EMA_DECAY, Laplace-smoothed counts) as the published
    code does, or, after `learn_by_gradient`, by the first term of Dolphin's Eq. 15. The first training batch starts the
    codebook by k-means, ten independent runs as Dolphin's paper says (appendix A.3.2); which of them it keeps it does
    not say, here it is the one with the least squared error. The published code makes one run, in evaluation mode too,
    so a fresh model's first output changes its buffers; here it does not. Processes that train together count together.

    Attributes:
        restart_below: in training, codes whose moving count falls below this are put on vectors of the batch; 0: never,
            as published.

    Shape: (B, F, dim) -> `Quantized`.
    """

    def __init__(self, dim: int, n_codes: int, code_dim: int) -> None:
        super().__init__()
        self.restart_below = 0.0
        self.project_in = nn.Linear(dim, code_dim)
        self.project_out = nn.Linear(code_dim, dim)
        codebook = torch.randn(n_codes, code_dim)
        self.register_buffer("codebook", codebook)  # (n_codes, code_dim)
        self.register_buffer("code_sum", codebook.clone())  # moving sum of the vectors that chose each code
        self.register_buffer("code_count", torch.ones(n_codes))  # moving count of them
        self.register_buffer("started", torch.tensor(False))  # has k-means or a checkpoint filled the codebook?

    def forward(self, features: Tensor) -> Quantized:
        z = self.project_in(features)  # (B, F, code_dim)
        vectors = z.detach().flatten(0, 1).float()  # (B * F, code_dim); half precision would confuse near codes
        if self.training and not self.started:
            self._start_by_kmeans(vectors)
        codes = self._choose(vectors)  # (B * F,)
        words = self.codebook[codes].view_as(z)
        if self.training:
            self._follow(vectors, codes)
        passed = z + (words - z).detach() if self.training else words
        return Quantized(self.project_out(passed), codes.view(z.shape[:2]), z, words)

    def learn_by_gradient(self) -> None:
        """From now on the codebook is a parameter; its loss pulls `Quantized.words` to the vectors."""
        codebook = self.codebook
        del self.codebook
        self.codebook = nn.Parameter(codebook)

    def _choose(self, vectors: Tensor) -> Tensor:
        distances = torch.cdist(vectors, self.codebook, compute_mode="donot_use_mm_for_euclid_dist")
        if not self.training:
            return distances.argmin(-1)
        gumbel = -torch.empty_like(distances).exponential_().log()
        return (gumbel - distances / TEMPERATURE).argmax(-1)

    @torch.no_grad()
    def _follow(self, vectors: Tensor, codes: Tensor) -> None:
        count, total = self._gather(vectors, codes)
        self.code_count.lerp_(count, 1 - EMA_DECAY)
        if self.codebook.requires_grad:
            self.code_sum.copy_(self.codebook * self.code_count[:, None])  # from which moving averages could go on
        else:
            self.code_sum.lerp_(total, 1 - EMA_DECAY)
            n_all = self.code_count.sum()
            smoothed = (self.code_count + EPS) / (n_all + len(self.code_count) * EPS) * n_all
            self.codebook.copy_(self.code_sum / smoothed[:, None])
        dead = self.code_count < self.restart_below
        if dead.any():
            chosen = torch.randint(len(vectors), (int(dead.sum()),), device=vectors.device)
            self.codebook[dead] = self.code_sum[dead] = vectors[chosen]
            self.code_count[dead] = 1.0

    @torch.no_grad()
    def _start_by_kmeans(self, vectors: Tensor) -> None:
        best = (float("inf"), self.codebook, self.code_count)
        for _ in range(KMEANS_RUNS):
            best = min(best, self._kmeans(vectors), key=lambda run: run[0])
        _, words, count = best
        self.codebook.copy_(words)
        self.code_count.copy_(count)
        self.code_sum.copy_(words * count[:, None])
        self.started.fill_(True)

    def _kmeans(self, vectors: Tensor) -> tuple[float, Tensor, Tensor]:
        """One run from random vectors: its squared error, centres (n_codes, code_dim), how many vectors each has."""
        n_codes = len(self.codebook)
        if len(vectors) >= n_codes:
            chosen = torch.randperm(len(vectors), device=vectors.device)[:n_codes]
        else:
            chosen = torch.randint(len(vectors), (n_codes,), device=vectors.device)
        centres = vectors[chosen]  # (n_codes, code_dim)
        if distributed.is_initialized():
            distributed.broadcast(centres, 0)
        for _ in range(KMEANS_ROUNDS):
            count, total = self._gather(vectors, torch.cdist(vectors, centres).argmin(-1))
            centres = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
        error = torch.cdist(vectors, centres).amin(-1).square().sum()
        if distributed.is_initialized():
            distributed.all_reduce(error)
        return float(error), centres, count

    def _gather(self, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """How many vectors chose each code, and their sum, over all processes: (n_codes,), (n_codes, code_dim)."""
        count = torch.zeros_like(self.code_count).index_add_(0, codes, torch.ones_like(vectors[:, 0]))
        total = torch.zeros_like(self.code_sum).index_add_(0, codes, vectors)
        if distributed.is_initialized():
            distributed.all_reduce(count)
            distributed.all_reduce(total)
        return count, total
