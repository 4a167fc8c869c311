"""What people install: the contents of the distributions, recipes by name, and hints that can be followed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from places import ROOT
from typer.testing import CliRunner

from lipsep.cli import app
from lipsep.errors import ModelError, install_line
from lipsep.training.packaged import RECIPES, recipe_names
from lipsep.training.recipe import load_recipe

runner = CliRunner()


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[set[str], set[str]]:
    """Names of the files in the sdist and in the wheel that is built from it, as for an upload."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    not_tracked = shutil.ignore_patterns(".git", ".venv*", "*.egg-info", "build", "runs", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=not_tracked)

    def build(tree: Path, what: str) -> Path:
        code = f"from setuptools.build_meta import *; print({what}({str(folder)!r}))"
        built = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        return folder / built.stdout.splitlines()[-1]

    sdist = build(source, "build_sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    wheel = build(folder / sdist.name.removesuffix(".tar.gz"), "build_wheel")
    with zipfile.ZipFile(wheel) as archive:
        return in_sdist, set(archive.namelist())


@pytest.mark.slow
def test_both_distributions_hold_all_that_people_need(distributions) -> None:
    in_sdist, in_wheel = distributions
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    assert recipes | {"constraints.txt", "MODELS.md", "CHANGELOG.md", "Makefile", "tests/conftest.py"} <= in_sdist
    needed = {"MODELS.md", "py.typed", "assets/demo.mp4", "weights/faces/facemesh.safetensors", *recipes}
    assert {f"lipsep/{name}" for name in needed} <= in_wheel
    assert {name.partition("/")[0] for name in in_wheel if ".dist-info/" not in name} == {"lipsep"}, "nothing else"
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lipsep").rglob("*.py")}
    assert sources <= in_wheel
    assert not [name for name in in_sdist | in_wheel if "__pycache__" in name or name.endswith(".pyc")]


def test_a_named_recipe_runs_in_the_current_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_name = load_recipe(Path("laptop/dolphin_laptop_together"))
    by_file = load_recipe(RECIPES / "laptop" / "dolphin_laptop_together.yaml")
    beginnings = {key: getattr(by_name.model, key) for key in ("initial_weights", "initial_separator")}
    assert by_name.model == by_file.model.model_copy(update=beginnings)
    assert by_name.output == tmp_path / by_file.output.relative_to(RECIPES.parent)
    assert Path(by_name.model.initial_weights).is_relative_to(tmp_path), "what it begins with was trained here too"
    as_in_the_handbook = load_recipe(Path("recipes/laptop/dolphin_laptop_together.yaml"))
    assert as_in_the_handbook == by_name


def test_every_packaged_recipe_is_listed_and_loads(tmp_path, monkeypatch) -> None:
    listed = runner.invoke(app, ["recipes"]).stdout.split()
    assert listed == recipe_names() and "dolphin/dolphin" in listed
    assert len(listed) == len(list((ROOT / "recipes").rglob("*.yaml")))
    with pytest.raises(ModelError, match=r"no recipe 'laptop/dolphin_lptop'.*did you mean 'laptop/dolphin_laptop'"):
        load_recipe(Path("laptop/dolphin_lptop"))


@pytest.mark.parametrize("extra", ["train", "eval", "web", "serve", "ray", "onnx"])
def test_hints_name_packages_that_an_index_has(extra: str, monkeypatch) -> None:
    """lipsep itself is on no index yet, so `pip install 'lipsep[...]'` is no help."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.findall(r'"(.*?)"', re.search(rf"^{extra} = \[(.*)\]$", declared, re.MULTILINE)[1])
    as_installed = ["torch>=2.5", *(f'{package}; extra == "{extra}"' for package in packages), 'x>=1; extra == "dev"']
    monkeypatch.setattr("lipsep.errors.requires", lambda _: as_installed)
    assert install_line(extra) == "pip install " + " ".join(f"'{package}'" for package in packages)
    monkeypatch.setattr("lipsep.errors.requires", lambda _: None)  # a source tree that is not installed
    assert install_line(extra) == f"pip install '.[{extra}]'  in the folder of lipsep's source"


def test_no_page_and_no_message_tells_to_install_from_an_index_that_lacks_the_package() -> None:
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "lipsep").rglob("*.py")]
    assert not [path.name for path in texts if re.search(r"pip install '?lipsep\b", path.read_text(encoding="utf-8"))]


def test_a_release_has_absolute_links_and_a_dated_entry_in_the_changelog() -> None:
    """A page on PyPI shows no picture and finds no file behind a relative link."""
    spec = spec_from_file_location("release_links", ROOT / "scripts" / "release_links.py")
    links = module_from_spec(spec)
    spec.loader.exec_module(links)
    home = "https://example.org/someone/lipsep"
    page = links.absolute_links("![a](docs/a.png) [b](docs/b.md#c) [d](#d) [e](https://e.org)", home, "v1")
    assert page == f"![a]({home}/raw/v1/docs/a.png) [b]({home}/blob/v1/docs/b.md#c) [d](#d) [e](https://e.org)"
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'Source = "{home}"' in links.with_urls(declared, home)
    version = re.search(r'^version = "(.*)"', declared, re.MULTILINE)[1]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changelog, re.MULTILINE)
