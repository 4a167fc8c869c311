"""Shared fixtures. Tests that need the data folder beside the checkout skip with a reason where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lipsep.checkpoints.folder import save_model
from lipsep.models import create_model

# side by side (pytest-xdist) each process has a core of its own
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


@pytest.hookimpl(trylast=True)  # of the tests that are left to run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, files with slow tests come first: a worker takes whole files, and the last ones should be short."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        long = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference tensors, clips and corpora: $LIPSEP_SHARED, or `shared/` beside the checkout."""
    folder = Path(os.environ.get("LIPSEP_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}: set LIPSEP_SHARED to its folder to run this test")
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A tiny Dolphin with random weights: it separates nothing, but everything runs for real."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    torch.manual_seed(0)
    save_model(create_model("dolphin_test"), folder, {"licence": "CC0", "keeps_level": True})
    return folder


@pytest.fixture(scope="module")
def film_once():
    """The product's own filming, for modules in which all clips show the same: its face tracker runs once."""
    from lipsep.data.corpora import filming
    from lipsep.faces.tracks import find_faces

    kept = []

    def find_once(frames, **options):
        if not kept:
            kept.append(find_faces(frames, **options))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filming, "find_faces", find_once)
        yield
