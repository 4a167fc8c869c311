"""Where a run writes its curves, by the names that recipes use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lipsep.errors import ModelError

PROJECT = "lipsep"  # of W&B, and the experiment of MLflow


def make_loggers(names: Sequence[str], output: Path) -> list[Logger]:
    """Loggers that write into the run folder; a resumed run adds a new version.

    Raises:
        ModelError: a logger's package is not installed.
    """
    return [_make(name, output) for name in names]


def _make(name: str, output: Path) -> Logger:
    try:
        if name == "csv":
            return CSVLogger(output, name="log")
        if name == "tensorboard":
            return TensorBoardLogger(output, name="tensorboard")
        if name == "wandb":  # WANDB_MODE=offline keeps everything on this machine
            output.mkdir(parents=True, exist_ok=True)
            return WandbLogger(name=output.name, save_dir=output, project=PROJECT)
        return MLFlowLogger(PROJECT, run_name=output.name, save_dir=str(output / "mlflow"))
    except ModuleNotFoundError as error:
        raise ModelError(f"logger '{name}' needs a package that is not installed: run  pip install {name}") from error
