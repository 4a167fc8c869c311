"""docs/fidelity.md: what it names exists, and no equation, table or figure of the papers is left out."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from places import ROOT

PAGE = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`((?:lipsep|tests|recipes|scripts|docs)/[^`]+)`", PAGE)))
LINKS = sorted(set(re.findall(r"\]\(([^)#]+)\)", PAGE)))


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_exists(name):
    file, _, test = name.partition("::")
    assert (ROOT / file).exists(), f"docs/fidelity.md names {file}, which is gone"
    assert not test or test in functions(file), f"docs/fidelity.md names {test}, which {file} no longer has"


@pytest.mark.parametrize("link", LINKS)
def test_what_is_linked_exists(link):
    assert (ROOT / "docs" / link).exists()


BROKEN = re.findall(
    r"^\| (\S+) \| `(.+)` \| `.+` \| `.+` \|$", PAGE.split("# Lines broken on purpose\n", 1)[1], re.MULTILINE
)


@pytest.mark.parametrize(("file", "line"), BROKEN)
def test_a_line_that_is_broken_on_purpose_is_there_once(file, line):
    """So that scripts/break_lines.py can break it."""
    assert (ROOT / file).read_text(encoding="utf-8").count(line) == 1


def test_at_least_twenty_lines_are_broken():
    assert len(BROKEN) >= 20


def numbers(heading: str, text: str) -> set[int]:
    """Of the first column of the table under a heading, with what lies between."""
    part = re.split(r"^#+ ", text.split(heading, 1)[1], flags=re.MULTILINE)[0]
    found = set()
    for cell in re.findall(r"^\| ([^|]+) \|", part, flags=re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", cell):
            found |= set(range(int(first), int(last or first) + 1))
    return found


def test_every_equation_table_and_figure_has_its_row():
    dolphin, bottleneck = PAGE.split("\n# BIN\n")
    assert numbers("## Equations", dolphin) == set(range(1, 29))
    assert numbers("## Tables", dolphin) == set(range(1, 12))
    assert numbers("## Figures", dolphin) == set(range(1, 10))
    cells = re.findall(r"^\| ([^|]+) \|", bottleneck, flags=re.MULTILINE)
    assert {"Eq. 1, 2", "Eq. 3", "Eq. 4", *(f"{what} {n}" for what in ("Table", "Fig.") for n in (1, 2, 3))} <= set(
        cells
    )
