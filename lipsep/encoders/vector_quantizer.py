"""A vector quantiser with a codebook learned by moving averages (VQ-VAE, van den Oord et al. 2017, appendix A.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

EMA_DECAY = 0.8
EPS = 1e-5
KMEANS_ROUNDS = 10
TEMPERATURE = 0.1  # of the code sampling in training; distances are divided by it


class Quantized(NamedTuple):
    """What `VectorQuantizer` returns."""

    features: Tensor  # (B, F, dim): the chosen code words, projected back
    codes: Tensor  # (B, F) int64
    commitment_loss: Tensor  # scalar: mean squared distance between the projected features and their code words


class VectorQuantizer(nn.Module):
    """Project to a few dimensions, replace each vector by a code word, project back.

    In evaluation mode the nearest code word (Euclidean) is taken and nothing is changed. In training mode the code word
    is drawn with probability softmax(-distance / TEMPERATURE), gradients pass straight through, and the codebook
    follows the vectors that chose it (moving averages of decay EMA_DECAY, Laplace-smoothed counts); the first training
    batch starts the codebook by k-means. The published code also runs that k-means in evaluation mode, so a fresh
    model's first output changes its buffers; here it does not. Processes that train together count together.

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
        commitment_loss = F.mse_loss(z, words)
        words = z + (words - z).detach() if self.training else words
        return Quantized(self.project_out(words), codes.view(z.shape[:2]), commitment_loss)

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
        n_codes = len(self.codebook)
        if len(vectors) >= n_codes:
            chosen = torch.randperm(len(vectors), device=vectors.device)[:n_codes]
        else:
            chosen = torch.randint(len(vectors), (n_codes,), device=vectors.device)
        self.codebook.copy_(vectors[chosen])
        if distributed.is_initialized():
            distributed.broadcast(self.codebook, 0)
        for _ in range(KMEANS_ROUNDS):
            count, total = self._gather(vectors, torch.cdist(vectors, self.codebook).argmin(-1))
            means = total / count.clamp(min=1)[:, None]
            self.codebook.copy_(torch.where(count[:, None] > 0, means, self.codebook))
        self.code_count.copy_(count)
        self.code_sum.copy_(self.codebook * count[:, None])
        self.started.fill_(True)

    def _gather(self, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """How many vectors chose each code, and their sum, over all processes: (n_codes,), (n_codes, code_dim)."""
        count = torch.zeros_like(self.code_count).index_add_(0, codes, torch.ones_like(vectors[:, 0]))
        total = torch.zeros_like(self.code_sum).index_add_(0, codes, vectors)
        if distributed.is_initialized():
            distributed.all_reduce(count)
            distributed.all_reduce(total)
        return count, total
