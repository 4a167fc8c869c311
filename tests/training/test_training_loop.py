"""The loop around training: schedules, losses beside the main one, many processes, requests to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from places import TESTS

from lipsep.checkpoints.folder import load_model
from lipsep.data.mixing.mixing import MixingConfig, Mixtures
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.lips.recipes import lip_recipe
from lipsep.models import create_model
from lipsep.training import train
from lipsep.training.feed import Feed
from lipsep.training.recipe import TrainingPart
from lipsep.training.separation import SeparationTraining

SMALL = {"video_layers": ["compress_space", "compress_space"], "dropout": 0.0, "visual_dropout": 0.0}


def write(folder: Path, training: dict, model: dict | None = None, mixing: dict | None = None) -> Path:
    """A recipe of a few steps on synthetic talkers."""
    content = {
        "model": model or {"name": "dolphin_test", "overrides": SMALL},
        "data": {
            "synthetic": {"talkers": 3, "held_out_talkers": 2, "clips_per_talker": 1, "clip_s": 2.0},
            "mixing": {"segment_s": 0.64, **(mixing or {})},
        },
        "training": {
            "loss": "si_snr", "batch_mixtures": 2, "steps_per_epoch": 3, "epochs": 1, "warmup_steps": 0,
            "validation_mixtures": 2, "workers": 0, **training,
        },
        "output": str(folder / "run"),
        "licence": "none",
        "provenance": "a toy",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


# --- losses beside the main one --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_at_once_trains_validates_and_exports(tmp_path):
    """Plateau, auxiliary, STFT, moving average, absent targets, occlusion, offset, accumulation, AdamW."""
    extras = {
        "schedule": "plateau", "auxiliary_weight": 0.4, "stft_weight": 0.1, "ema_decay": 0.9, "optimiser": "adamw",
        "weight_decay": 0.01, "betas": [0.9, 0.98], "accumulate": 2, "precision": "bf16-mixed", "epochs": 2,
    }  # fmt: skip
    mixing = {"target_absent": 0.5, "occluded": 0.5, "mouths": {"early_or_late": 1.0, "offset_frames": 3}}
    folder = train(write(tmp_path, extras, mixing=mixing))
    model = load_model(str(folder))
    assert np.isfinite(model.metadata["validation"]["val_si_snri"])
    logs = [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert "metrics.csv" in logs and any(name.startswith("events.out.tfevents") for name in logs)


@pytest.mark.slow
def test_half_precision_learns(tmp_path, monkeypatch):
    """Products are made in bfloat16, every step's loss is finite, and the losses fall."""
    losses, kinds = [], set()
    step = SeparationTraining.training_step

    def watched(self, batch, index):
        hook = self.model.audio_projection.linear.register_forward_hook(lambda *call: kinds.add(call[2].dtype))
        losses.append(float((loss := step(self, batch, index)).detach()))
        hook.remove()
        return loss

    monkeypatch.setattr(SeparationTraining, "training_step", watched)
    settings = {"loss": "snr", "precision": "bf16-mixed", "steps_per_epoch": 14, "learning_rate": 4e-3}
    model = load_model(str(train(write(tmp_path, settings, mixing={"mouths": None, "pace": [1.0, 1.0]}))))
    assert kinds == {torch.bfloat16} and np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 2.0  # dB
    assert all(value.dtype != torch.bfloat16 and value.isfinite().all() for value in model.state_dict().values())


def test_an_absent_voice_should_be_silent():
    clips = synthetic_corpus(4, 1, 3.0, seed=0)
    items = Mixtures(clips, None, None, MixingConfig(target_absent=1.0, occluded=1.0), lip_recipe("mesh_32"), 3, seed=0)
    for mixture, lips, sources in (items[i] for i in range(3)):
        assert sources[0].any() and not sources[1].any()
        assert (mixture[0] - sources[0, 0]).square().mean() > 1e-4  # the other voice is still in the mixture
        assert not torch.equal(lips[0], lips[1])
    module = SeparationTraining(create_model("dolphin_test"), TrainingPart(
        loss="snr", steps_per_epoch=1, epochs=1, batch_mixtures=1
    ))  # fmt: skip
    mixture, _, sources = items[0]
    perfect = module._loss(sources, mixture, sources)
    leaking = module._loss(sources + 0.3 * mixture[:, None] * torch.tensor([0.0, 1.0])[:, None, None], mixture, sources)
    assert leaking > perfect + 5.0


# --- schedule --------------------------------------------------------------------------------------------------------


def test_the_plateau_halves_after_so_many_epochs_without_improvement():
    part = TrainingPart(
        loss="si_snr", steps_per_epoch=1, epochs=9, batch_mixtures=1, schedule="plateau", halve_after_epochs=3
    )
    plan = SeparationTraining(create_model("dolphin_test"), part).configure_optimizers()
    rates = []
    for score in (1.0, 2.0, 1.5, 1.5, 2.0, 2.0):  # three epochs in a row that are no better than the second
        plan["lr_scheduler"]["scheduler"].step(score)
        rates.append(plan["optimizer"].param_groups[0]["lr"])
    assert rates == [1e-3] * 4 + [5e-4] * 2


@pytest.mark.slow
def test_the_plateau_stops_and_exports_the_best_weights(tmp_path, monkeypatch):
    """Validation scores are dictated: best after the first epoch, then ever worse."""
    kept = {}

    def dictated(self, batch, index):
        self.log("val_si_snri", torch.tensor(-float(self.current_epoch)), sync_dist=True, batch_size=1)
        if self.current_epoch == 0:
            kept.update({name: value.clone() for name, value in self.model.state_dict().items()})

    monkeypatch.setattr(SeparationTraining, "validation_step", dictated)
    recipe = write(tmp_path, {"schedule": "plateau", "epochs": 9, "stop_after_epochs": 2})
    exported = load_model(str(train(recipe)))
    assert exported.metadata["validation"]["val_si_snri"] == 0.0
    for name, value in exported.state_dict().items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0, msg=name)
    epochs = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["epoch"]
    assert epochs == 2  # the first epoch and two that were no better


# --- many processes, and requests to stop ----------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_batch(tmp_path):
    gate = {"name": "lip_gate"}
    script = str(TESTS / "two_processes.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name, devices, launcher in (
        ("one", 1, []),
        ("two", 2, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]),
    ):
        recipe = write(tmp_path / name, {"devices": devices, "batch_mixtures": 4}, gate)
        subprocess.run([sys.executable, *launcher, script, str(recipe)], env=environment, check=True, timeout=300)
    one, two = weights(tmp_path / "one/run/model"), weights(tmp_path / "two/run/model")
    assert set(one) == set(two)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6, msg=name)


def test_processes_share_every_batch_and_an_interrupted_epoch_goes_on():
    from lipsep.training.feed import Share

    shares = [list(Share(10, rank, 2)) for rank in range(2)]
    assert shares == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    late = Share(10, 1, 2)
    late.seen = 3
    assert list(late) == [7, 9] and len(late) == 5


def test_workers_that_are_told_to_end_too_go_on_feeding():
    """Schedulers tell every process; the loop needs its workers until it has saved."""

    class Numbers(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return torch.tensor(index)

    feed = Feed(Numbers(), Numbers(), batch=2, workers=1, collate=torch.stack)
    feed.trainer = SimpleNamespace(world_size=1, global_rank=0, current_epoch=0)
    batches = iter(feed.train_dataloader())
    seen = next(batches).tolist()
    for worker in multiprocessing.active_children():
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert sum((batch.tolist() for batch in batches), seen) == list(range(12))


@pytest.mark.slow
@pytest.mark.parametrize("extras", [{}, {"accumulate": 2, "ema_decay": 0.5}], ids=["plain", "accumulated"])
def test_a_run_that_was_told_to_end_goes_on_in_mid_epoch_as_if_it_had_not(tmp_path, monkeypatch, extras):
    settings = {"steps_per_epoch": 4, "epochs": 2, **extras}
    whole = train(write(tmp_path / "whole", settings))

    class Terminate(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    class Told(BaseException):
        pass

    def told(*_):
        raise Told

    original = lightning.Trainer.__init__
    monkeypatch.setattr(
        lightning.Trainer,
        "__init__",
        lambda self, **kw: original(self, **{**kw, "callbacks": [*kw["callbacks"], Terminate()]}),
    )
    recipe = write(tmp_path / "cut", settings)
    before = signal.signal(signal.SIGTERM, told)
    try:
        with pytest.raises(Told):
            train(recipe)
    finally:
        signal.signal(signal.SIGTERM, before)
    monkeypatch.setattr(lightning.Trainer, "__init__", original)
    stopped = torch.load(tmp_path / "cut/run/checkpoints/last.ckpt", weights_only=True)
    assert 4 < stopped["global_step"] < 8 and not (tmp_path / "cut/run/model").exists()
    resumed = train(recipe)
    first, second = weights(whole), weights(resumed)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)
