"""What the pages say: Python blocks run, command lines exist, links lead somewhere, and examples work."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
import typer
import yaml
from places import ROOT
from scenes import Shot, build_clip, demo_people

import lipsep.models.registry
from lipsep.cli import app

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.md")]
NAMES = [path.relative_to(ROOT).as_posix() for path in sorted(PAGES)]
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"^(?:    |\$ )((?:lipsep|make|python) .*)$", re.MULTILINE)
_SLOW = {"docs/demo_clip.md"}  # builds a clip of 12 s


def with_python() -> list:
    names = [name for name in NAMES if _PYTHON.search((ROOT / name).read_text(encoding="utf-8"))]
    return [pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in names]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """The video that pages talk about: one second of one person."""
    path = tmp_path_factory.mktemp("film") / "interview.mp4"
    return build_clip(demo_people(), path, duration_s=1, shots=[Shot(0.0, (0, None))], size=(320, 180)).path


@pytest.fixture
def reader(clip, model_folder, tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder as a reader has it, with a tiny model in place of what has to be downloaded, and no GPU."""
    (tmp_path / "interview.mp4").symlink_to(clip)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lipsep.checkpoints.folder.from_hub", lambda *_: model_folder)
    monkeypatch.setattr("lipsep.separator.choose_device", lambda _: torch.device("cpu"))
    for register in ("lipsep.models.registry._MODELS", "lipsep.encoders.base._ENCODERS"):
        monkeypatch.setattr(register, dict(_value(register)))  # what a page registers is forgotten afterwards
    shared = [_value(name) for name in ("lipsep.lips.recipes.LIP_RECIPES", "lipsep.data.corpora.layouts.LAYOUTS")]
    before = [dict(register) for register in shared]
    yield tmp_path
    for register, entries in zip(shared, before, strict=True):
        register.clear()
        register.update(entries)


def _value(name: str) -> dict:
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(module) or __import__(module, fromlist=["_"]), attribute)


@pytest.mark.parametrize("name", with_python())
def test_python_blocks_run(name: str, reader: Path) -> None:
    space = {"__name__": f"page_{Path(name).stem}"}
    sys.modules[space["__name__"]] = type(sys)(space["__name__"])  # dataclasses look their module up
    for block in _PYTHON.findall((ROOT / name).read_text(encoding="utf-8")):
        exec(compile(block, name, "exec"), space)
    if name == "CONTRIBUTING.md":
        assert space["estimates"].shape == (2, 1, 16000)
        assert [source.name for source in space["sources"]] == ["ann_0001"]
        assert space["model"].lip_recipe == "mouth_48" and "lip_gate" in lipsep.models.list_models()
    if name == "docs/guides/separate.md":
        assert space["remix"].shape == (16000,) and space["track"]["speech"]  # the block prints when this person speaks


@pytest.mark.parametrize("name", NAMES)
def test_command_lines_exist_with_every_option(name: str) -> None:
    text = re.sub(r" \\\n\s+", " ", (ROOT / name).read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {target for names in targets for target in names.split()}
    for line in _SHELL.findall(text):
        for command in re.split(r"&&|\|\|?", re.split(r"\s#", line)[0]):
            words = [word for word in shlex.split(command) if word != "..."]
            if words[:1] == ["lipsep"]:
                _parse(words[1:], f"{name}: {line}")
            elif words[:1] == ["make"]:
                assert set(words[1:]) <= targets, f"{name}: {line}"
            elif words[:1] == ["python"] and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file(), f"{name}: {line}"


def _parse(words: list[str], where: str) -> None:
    """Let the command line read the words without running anything."""
    command = typer.main.get_command(app)
    context = click.Context(command)
    while hasattr(command, "get_command"):
        words = [word for word in words if word not in ("-v", "-q", "--debug")]
        if not words or words[0].startswith("-"):
            return
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f"{where}: there is no such command"
    if "--help" in words:
        return
    try:
        command.make_context(name, words)
    except (click.ClickException, typer.Exit) as error:
        pytest.fail(f"{where}: {getattr(error, 'message', error)}")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(((?!https?://|mailto:)[^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name} leads to {target}"
        if anchor and file.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{name} leads to {target}"


def test_the_readme_is_short() -> None:
    words = re.sub(r"```.*?```|^    .*$|\|", " ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S | re.M)
    assert len(words.split()) < 750


@pytest.mark.parametrize("name", ["voices.py", "remix.py"])
def test_examples_run(name: str, clip, model_folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, str(clip), str(model_folder)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    said = capsys.readouterr().out
    assert ("person 1" in said) if name == "voices.py" else (tmp_path / "remix.wav").stat().st_size > 30_000


def test_the_notebook_runs(clip, model_folder, monkeypatch) -> None:
    notebook = json.loads((ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8"))
    code = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert all(not cell.get("outputs") for cell in notebook["cells"]), "outputs are not committed"
    monkeypatch.setenv("MPLBACKEND", "agg")
    short = code.replace('str(files("lipsep") / "assets" / "demo.mp4")', repr(str(clip)))
    short = short.replace("Separator()", f"Separator({str(model_folder)!r})")
    assert short.count(str(clip)) == 1 and short.count(str(model_folder)) == 1
    space: dict = {}
    exec(compile(short, "tour.ipynb", "exec"), space)
    assert len(space["axes"]) == 2


def test_the_citation_is_complete_and_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "date-released"} <= cited.keys()
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{cited["version"]}"' in declared
    assert f"## {cited['version']} ({cited['date-released']})" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
