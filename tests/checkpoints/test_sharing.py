"""Weights that leave: the model card, the upload, and the way back, with a folder in the hub's layout for a hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from typer.testing import CliRunner

from lipsep.checkpoints.folder import load_model, save_model
from lipsep.checkpoints.sharing import push_to_hub, write_hub_folder
from lipsep.cli import app
from lipsep.errors import WeightsError
from lipsep.models import SeparationModel, create_model
from lipsep.separator import Separator

NAME = "someone/voices"
SAID = {
    "licence": "CC-BY-4.0",
    "provenance": "synthetic babble",
    "teacher": "log_mel",
    "validation": {"val_si_snri": 6.25},
    "recipe": "toy.yaml",
}


class LocalHub:
    """Takes uploads into a cache folder as the hub's own library lays it out: a commit for each, a ref for a branch."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.created, self.n_commits = cache, {}, 0

    def api(self, token: str | None = None) -> LocalHub:
        self.token = token
        return self

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok, "a second upload to the same place must work"
        self.created.setdefault(name, private)

    def create_branch(self, name: str, *, branch: str, exist_ok: bool) -> None:
        assert name in self.created and exist_ok

    def upload_folder(self, *, repo_id: str, folder_path: str, revision: str | None, commit_message: str):
        assert commit_message
        self.n_commits += 1
        commit = f"{self.n_commits:040x}"
        repo = self.cache / f"models--{repo_id.replace('/', '--')}"
        shutil.copytree(folder_path, repo / "snapshots" / commit)
        ref = repo / "refs" / (revision or "main")
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/{commit}")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> LocalHub:
    hub = LocalHub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "HfApi", hub.api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return hub


def tiny(**said: object) -> SeparationModel:
    model = create_model("dolphin_test")
    model.metadata = {**SAID, **said}
    return model.eval()


def total(model: SeparationModel) -> float:
    return float(sum(parameter.double().sum() for parameter in model.parameters()))


def test_what_is_pushed_comes_back_by_name_and_by_revision(hub: LocalHub) -> None:
    first, second = tiny(), tiny(provenance="more babble")
    assert push_to_hub(first, NAME, private=True).startswith("https://")
    push_to_hub(second, NAME, revision="longer")
    assert hub.created == {NAME: True}
    back = load_model(NAME, cache_dir=hub.cache)
    assert total(back) == total(first) and back.metadata["provenance"] == "synthetic babble"
    separator = Separator.from_pretrained(NAME, "cpu", revision="longer", cache_dir=hub.cache)
    assert separator.model.metadata["provenance"] == "more babble"
    with pytest.raises(WeightsError, match=f"'{NAME} at nowhere' is not in the cache {hub.cache}"):
        load_model(NAME, revision="nowhere", cache_dir=hub.cache)


def test_a_token_reaches_the_hub(hub: LocalHub, monkeypatch) -> None:
    push_to_hub(tiny(), NAME, token="hf_up")
    assert hub.token == "hf_up"
    asked = []

    def snapshot_download(name: str, **given: object) -> str:
        asked.append(given["token"])
        return str(next(hub.cache.rglob("config.json")).parent)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    load_model(NAME, token="hf_down")
    assert asked == ["hf_down"]


def test_the_card_says_what_the_checkpoint_says(tmp_path) -> None:
    folder = write_hub_folder(tiny(), tmp_path / "model", NAME)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    _, head, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(head)
    assert fields["license"] == "cc-by-4.0" and fields["library_name"] == "lipsep"
    for fact in ("CC-BY-4.0", "synthetic babble", "log_mel", "val_si_snri | 6.25", "toy.yaml", "dolphin_test", NAME):
        assert fact in body, fact
    other = write_hub_folder(tiny(licence='research "only"'), tmp_path / "other", NAME) / "README.md"
    fields = yaml.safe_load(other.read_text(encoding="utf-8").split("---\n")[1])
    assert fields["license"] == "other" and fields["license_name"] == "research 'only'"


def test_weights_without_a_licence_are_not_given_away(hub: LocalHub) -> None:
    model = create_model("dolphin_test")
    with pytest.raises(WeightsError, match="do not state their licence and provenance"):
        push_to_hub(model, NAME)
    assert not hub.created and not hub.cache.exists()


def test_a_hub_that_refuses_is_one_clear_line(hub: LocalHub, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        error = ConnectionError("403 Forbidden")
        error.response = SimpleNamespace(status_code=403)
        raise error

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(WeightsError, match=r"cannot upload to 'someone/voices': .*log in"):
        push_to_hub(tiny(), NAME)
    with pytest.raises(WeightsError, match="owner/name"):
        push_to_hub(tiny(), "voices")


def test_a_revision_of_a_folder_is_refused(tmp_path) -> None:
    save_model(tiny(), tmp_path / "model", SAID)
    with pytest.raises(WeightsError, match="no hub id, so it has no revision 'v2'"):
        load_model(tmp_path / "model", revision="v2")


def test_the_command_writes_the_folder_or_uploads_it(hub: LocalHub, tmp_path) -> None:
    save_model(tiny(), tmp_path / "model", SAID)
    ran = CliRunner().invoke(app, ["push", str(tmp_path / "model"), NAME, "-o", str(tmp_path / "out")])
    assert ran.exit_code == 0 and not hub.created
    assert total(load_model(tmp_path / "out")) == total(load_model(tmp_path / "model"))
    ran = CliRunner().invoke(app, ["push", str(tmp_path / "model"), NAME])
    assert ran.exit_code == 0 and "https://hub.example/" in ran.stdout
    assert total(load_model(NAME, cache_dir=hub.cache)) == total(load_model(tmp_path / "model"))
