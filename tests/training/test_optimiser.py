"""What the recipe says of the optimiser reaches it: rate, betas, decay, and gradients clipped to an L2 norm."""

from __future__ import annotations

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lipsep.models import create_model
from lipsep.training.recipe import TrainingPart
from lipsep.training.run import make_trainer
from lipsep.training.separation import SeparationTraining

PART = {"loss": "si_snr", "steps_per_epoch": 1, "epochs": 1, "batch_mixtures": 1}


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_rate_betas_and_decay_are_the_recipes(name, kind):
    part = TrainingPart(**PART, optimiser=name, learning_rate=2e-3, betas=(0.8, 0.95), weight_decay=0.07)
    optimiser = SeparationTraining(create_model("dolphin_test"), part).configure_optimizers()["optimizer"]
    assert type(optimiser) is kind
    (group,) = optimiser.param_groups
    assert group["betas"] == (0.8, 0.95) and group["weight_decay"] == 0.07 and group["initial_lr"] == 2e-3


class Steep(lightning.LightningModule):
    """Two weights with gradients 300 and 400, whose L2 norm is 500; what is left of them when the step is made."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2))
        self.seen: list[float] = []

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        return (self.weights * torch.tensor([300.0, 400.0])).sum()

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        self.seen = self.weights.grad.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1.0)


@pytest.mark.parametrize(("clip_norm", "step"), [(5.0, (-3.0, -4.0)), (float("inf"), (-300.0, -400.0))])
def test_gradients_are_clipped_by_their_l2_norm(tmp_path, clip_norm, step):
    """Section 4 of Dolphin: a threshold of 5 leaves 3 and 4 of 300 and 400; BIN's recipe does not clip."""
    module = Steep()
    part = TrainingPart(**PART, clip_norm=clip_norm)
    trainer = make_trainer(tmp_path, part, [])
    trainer.fit(module, DataLoader(torch.zeros(1, 1), batch_size=1))
    assert module.weights.tolist() == pytest.approx(step, rel=1e-4)


def test_the_default_threshold_is_dolphins():
    assert TrainingPart(**PART).clip_norm == 5.0
