"""When training slows down and ends, and what validation measures: dictated scores, figures by hand."""

from __future__ import annotations

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from lipsep.models import create_model
from lipsep.training.recipe import TrainingPart
from lipsep.training.run import _callbacks, make_trainer
from lipsep.training.separation import SeparationTraining

PART = {"loss": "si_snr", "steps_per_epoch": 1, "epochs": 9, "batch_mixtures": 1, "schedule": "plateau"}


class Dictated(lightning.LightningModule):
    """Its validation is 1, 3, 2, 3, 3, ... dB whatever it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        self.log("val_si_snri", torch.tensor([1.0, 3.0, 2.0][self.current_epoch] if self.current_epoch < 3 else 3.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1.0)


def test_a_separator_stops_after_so_many_epochs_without_improvement(tmp_path):
    """Section 4 of Dolphin. Best in the second epoch; equal is no improvement: three more, and it ends."""
    part = TrainingPart(**PART, stop_after_epochs=3)
    best = ModelCheckpoint(tmp_path / "checkpoints", "best", "val_si_snri", mode="max")
    trainer = make_trainer(tmp_path, part, _callbacks(part, best))
    loader = DataLoader(torch.zeros(1, 1))
    trainer.fit(Dictated(), loader, loader)
    assert trainer.current_epoch == 2 + 3
    assert float(best.best_model_score) == 3.0


def test_bins_rate_is_halved_where_the_training_loss_no_longer_falls():
    """The loss falls once, then does not for two epochs."""
    part = TrainingPart(**PART, halve_after_epochs=2, plateau_watches="loss_of_epoch")
    plan = SeparationTraining(create_model("dolphin_test"), part).configure_optimizers()
    assert plan["lr_scheduler"]["monitor"] == "loss_of_epoch"
    rates = []
    for loss in (3.0, 2.0, 2.5, 2.0):
        plan["lr_scheduler"]["scheduler"].step(loss)
        rates.append(plan["optimizer"].param_groups[0]["lr"])
    assert rates == [1e-3] * 3 + [5e-4]


@pytest.mark.parametrize(("answer", "gained_db", "own"), [("mixture", 0.0, 0), ("own", None, 1), ("other", None, 0)])
def test_validation_is_the_gain_over_the_mixture_and_whether_lips_fetch_their_own_voice(answer, gained_db, own):
    torch.manual_seed(0)
    voices = torch.randn(2, 1, 8_000) * torch.tensor([1.0, 0.3]).view(2, 1, 1)
    mixture = voices.sum(0).expand(2, -1)  # (2, T), the same sound asked with both mouths
    answers = {"mixture": mixture[:, None], "own": voices, "other": voices.flip(0)}
    module = SeparationTraining(create_model("dolphin_test"), TrainingPart(**PART))
    module.separate = lambda *_: answers[answer] + 1e-3 * torch.randn(2, 1, 8_000) * (answer != "mixture")
    improvement, fetched = module.judge((mixture, torch.empty(2, 0), voices))
    if gained_db is not None:
        assert improvement.flatten().tolist() == pytest.approx([gained_db] * 2, abs=1e-4)
    assert (improvement > 0).all() == (answer == "own")
    assert fetched.tolist() == [own]
