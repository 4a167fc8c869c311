"""What people meet when they load weights: folders, the hub's cache, and files that are not what they should be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from golden import fill_manifest

import lipsep
from lipsep.checkpoints import catalogue
from lipsep.checkpoints.catalogue import available_weights
from lipsep.checkpoints.folder import load_model, save_model
from lipsep.errors import WeightsError
from lipsep.models import create_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint of our own."""
    save_model(create_model("dolphin_test"), tmp_path / "model", {"licence": "CC0-1.0", "provenance": "noise"})
    return tmp_path / "model"


@pytest.fixture(scope="module")
def published_folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published layout: the authors' key names and a config that knows nothing of lipsep."""
    folder = tmp_path_factory.mktemp("published")
    state = fill_manifest(shared / "reference" / "dolphin" / "dolphin_state_manifest.json")
    safetensors.torch.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"sample_rate": 16000, "num_stages": 4}))
    return folder


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    change(state)
    safetensors.torch.save_file(state, folder / "model.safetensors")


def edit_card(folder: Path, **entries: object) -> None:
    card = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps(card))


def test_a_checkpoint_describes_itself(folder: Path) -> None:
    card = json.loads((folder / "config.json").read_text())
    assert (card["model"], card["lip_recipe"], card["keeps_level"]) == ("dolphin_test", "mesh_32", False)
    assert card["config"]["n_stages"] == 2
    assert (card["sample_rate"], card["fps"], card["licence"]) == (16000, 25, "CC0-1.0")


def test_checkpoints_of_the_first_version_still_load(folder: Path) -> None:
    """They name two settings of ours for every Dolphin; with a value that means something they are refused."""
    config = json.loads((folder / "config.json").read_text())["config"]
    edit_card(folder, config=config | {"n_src": 1, "input_level": None})
    assert load_model(folder).name == "dolphin_test"
    edit_card(folder, config=config | {"n_src": 2})
    with pytest.raises(WeightsError, match="n_src"):
        load_model(folder)


def test_sizes_come_from_the_checkpoint_not_from_the_register(tmp_path: Path) -> None:
    save_model(create_model("dolphin_test", n_stages=3, video_encoder="reconstruction"), tmp_path)
    loaded = load_model(str(tmp_path))
    assert (loaded.config.n_stages, loaded.config.video_encoder) == (3, "reconstruction")
    assert not loaded.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("audio_decoder.conv.weight"), "lack key 'audio_decoder.conv.weight'"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected key 'extra'"),
        (lambda s: s.update({"output_layer.mix.bias": torch.zeros(3)}), r"'output_layer.mix.bias' of shape \(3,\)"),
        (lambda s: s["output_layer.mix.bias"].fill_(float("nan")), "NaN or infinite values in 'output_layer.mix.bias'"),
        (lambda s: s["separator.decoder.0.fusion.fine.0.k"].fill_(float("inf")), "NaN or infinite .*fine.0.k"),
    ],
)
def test_misfitting_weights_are_refused_by_name(folder: Path, change: Callable, message: str) -> None:
    edit_weights(folder, change)
    with pytest.raises(WeightsError, match=message):
        load_model(folder)


def test_an_unknown_model_or_setting_in_the_config_is_refused(folder: Path) -> None:
    edit_card(folder, model="dolphin_tset")
    with pytest.raises(WeightsError, match=r"no model is named 'dolphin_tset': did you mean .*'dolphin_test'"):
        load_model(folder)
    edit_card(folder, model="dolphin_test", config={"stages": 2})
    with pytest.raises(WeightsError, match="no setting 'stages'"):
        load_model(folder)


def test_damaged_or_incomplete_folders_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"model.safetensors' is damaged"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(WeightsError, match="has no weights"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"cannot read .*config.json"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"has no config.json"):
        load_model(folder)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="more than plain tensors"):
        load_model(folder)
    assert not (tmp_path / "sprung").exists()


def test_plain_tensors_in_a_torch_file_load(folder: Path) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": state}, folder / "pytorch_model.bin")
    loaded = load_model(folder).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_names_without_weights_say_what_to_do() -> None:
    with pytest.raises(WeightsError, match=r"'dolphin' is a known model.*create_model"):
        load_model("dolphin")
    with pytest.raises(WeightsError, match=r"'swiftnet_6' is a known model.*its authors released with --weights"):
        load_model("swiftnet_6")
    with pytest.raises(WeightsError, match=r"no weights are named 'xyzzy'"):
        load_model("xyzzy")
    with pytest.raises(WeightsError, match=r"there is no folder './nowhere'"):
        load_model("./nowhere")


def test_packaged_weights_load_without_pytorchs_compiler() -> None:
    """Which takes seconds to import; every command that separates would wait for it."""
    script = "import sys, lipsep; lipsep.load_model('voices_first'); print('torch._dynamo' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert ran.stdout.strip() == "False", ran.stderr


def test_packaged_weights_are_listed_and_load_by_name(folder: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(folder, tmp_path / "packaged" / "dolphin_test")
    monkeypatch.setattr(catalogue, "PACKAGED", tmp_path / "packaged")
    entries = {entry.name: entry for entry in available_weights()}
    assert entries["dolphin_test"].licence == "CC0-1.0"
    assert entries["dolphin_test"].size == (folder / "model.safetensors").stat().st_size
    assert len(entries["dolphin_test"].sha256) == 64
    assert "not cleared for commercial use" in entries["JusperLee/Dolphin"].licence
    assert load_model("dolphin_test").name == "dolphin_test"


def test_the_public_names_are_at_hand() -> None:
    assert lipsep.create_model("dolphin_test").name == "dolphin_test"
    assert "dolphin" in lipsep.list_models()
    assert lipsep.load_model is load_model
    assert lipsep.__version__
    with pytest.raises(AttributeError, match="no attribute 'seperate'"):
        lipsep.seperate  # noqa: B018


# --- Published weights and the hub -----------------------------------------------------------------------------------


def test_the_published_layout_loads(published_folder: Path) -> None:
    model = load_model(published_folder)
    assert (model.name, model.lip_recipe, model.keeps_level, model.training) == ("dolphin", "mouth_88", False, False)
    published = safetensors.torch.load_file(published_folder / "model.safetensors")
    assert torch.equal(model.output_layer.mix.weight, published["out_layer.end_conv1x1.2.weight"])
    assert "AV-HuBERT" in model.metadata["provenance"]


def test_a_missing_published_key_is_named(published_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(published_folder, tmp_path / "copy")
    edit_weights(tmp_path / "copy", lambda state: state.pop("separator.pos_emb.pe_k.weight"))
    with pytest.raises(WeightsError, match=r"lack key 'separator.pos_emb.pe_k.weight'"):
        load_model(tmp_path / "copy")


def load_in_a_process(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run with the hub offline and an own cache; both are read when huggingface_hub is imported."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


LOAD = "from lipsep import load_model; print(sum(p.numel() for p in load_model('JusperLee/Dolphin').parameters()))"


def test_a_hub_model_loads_from_the_cache_offline(published_folder: Path, tmp_path: Path) -> None:
    repo, commit = tmp_path / "models--JusperLee--Dolphin", "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(published_folder, repo / "snapshots" / commit)
    result = load_in_a_process(LOAD, tmp_path)
    assert result.stdout.strip() == "7000448", result.stderr
    assert "Licence" not in result.stderr, "the notice belongs to the first download"


def test_offline_without_a_cached_copy_says_what_to_do(tmp_path: Path) -> None:
    result = load_in_a_process(LOAD, tmp_path)
    assert result.returncode != 0
    assert "is not in the cache" in result.stderr
    assert "run once online, or pass a folder" in result.stderr


def test_the_notice_comes_before_the_first_download(monkeypatch, caplog) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(name: str, *, local_files_only: bool = False, **_: object) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        assert "not cleared for commercial use" in caplog.text
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(WeightsError, match="cannot download 'JusperLee/Dolphin'"):
        load_model("JusperLee/Dolphin")
