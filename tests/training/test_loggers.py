"""Curves by name, and what a run says on the terminal."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lipsep.commands.terminal import calm_libraries
from lipsep.errors import ModelError
from lipsep.training.callbacks import EpochBar
from lipsep.training.loggers import make_loggers
from lipsep.training.recipe import LoopPart
from lipsep.training.run import make_trainer


def test_a_run_has_the_loggers_that_its_recipe_names(tmp_path) -> None:
    plain = make_trainer(tmp_path, LoopPart(steps_per_epoch=3, epochs=2), [])
    assert [type(logger) for logger in plain.loggers] == [CSVLogger, TensorBoardLogger]
    assert plain.log_every_n_steps == 3, "a short epoch is logged too"
    silent = make_trainer(tmp_path, LoopPart(steps_per_epoch=300, epochs=2, loggers=()), [])
    assert not silent.loggers and silent.log_every_n_steps == 20


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_without_its_package_says_what_to_install(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(f"lightning.pytorch.loggers.{name}._{name.upper()}_AVAILABLE", False)
    monkeypatch.setitem(sys.modules, name, None)
    if name == "mlflow":
        monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_SKINNY_AVAILABLE", False, raising=False)
    with pytest.raises(ModelError, match=f"pip install {name}"):
        make_loggers([name], tmp_path)


def test_epochs_are_counted_from_one(tmp_path) -> None:
    trainer = make_trainer(tmp_path, LoopPart(steps_per_epoch=1, epochs=5, loggers=()), [])
    bar = next(callback for callback in trainer.callbacks if isinstance(callback, EpochBar))
    bar._trainer = trainer
    assert [bar._get_train_description(epoch) for epoch in (0, 4)] == ["epoch 1 of 5", "epoch 5 of 5"]
    assert trainer.progress_bar_callback is bar


def test_libraries_are_calm_unless_asked_to_talk(recwarn) -> None:
    library = {"__name__": "lightning.pytorch.some"}
    own = {"__name__": "lipsep.some"}
    speak = "import warnings; warnings.warn('a hint')"
    with calm_libraries("lightning"):
        exec(speak, library)
        exec(speak, own)
        assert not logging.getLogger("lightning.pytorch").isEnabledFor(logging.INFO)
    assert [str(warning.message) for warning in recwarn] == ["a hint"], "our own warnings are heard"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        exec(speak, {"__name__": "lightning.pytorch.other"})
    assert len(heard) == 1, "the calm ends with the command"
