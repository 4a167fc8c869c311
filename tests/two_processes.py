"""Trains by the recipe that it is given, with a model that has no batch normalisation (which sees local batches only).

Run by test_training_loop.py, once alone and once under torchrun.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model
from lipsep.training import train


@dataclass(frozen=True)
class GateConfig:
    lip_size: int = 16
    lip_recipe: str = "mesh_32"


class Gate(SeparationModel):
    """Lets the mixture through as far as the lips say."""

    def __init__(self, config: GateConfig) -> None:
        super().__init__(config, lip_recipe=config.lip_recipe)
        self.look = nn.Sequential(nn.Linear(32 * 32, 8), nn.GELU(), nn.Linear(8, 1))
        self.never_used = nn.Linear(2, 2)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        gain = self.look(lips.flatten(2)).squeeze(-1)  # (B, F)
        return (mixture * gain.repeat_interleave(640, dim=1)[:, : mixture.shape[1]]).unsqueeze(1)


@register_model(Gate)
def lip_gate() -> GateConfig:
    return GateConfig()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(sys.argv[1])
