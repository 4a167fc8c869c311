"""The directions of the house: every import goes down, nothing goes round in a circle, few modules lie loose."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from places import ROOT, TESTS

PACKAGE = ROOT / "lipsep"
DOWN_TO_UP = (
    *("constants", "errors", "version", "losses", "system"),
    *("kernels", "layers", "encoders", "models", "onnx", "checkpoints"),
    *("media", "faces", "lips", "separation", "results", "separator"),
    *("data", "training", "evaluation", "profiling", "plots"),
    *("services", "commands", "cli", "__main__"),
)
"""Rooms (a folder, or a module that lies loose), each of which may import those before it alone."""
NETWORKS = {"kernels", "layers", "encoders", "models"}
MAIN_PATH = {"media", "faces", "lips"}
MOST_LOOSE = 8


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & MODULES.keys()) or {node.module}
    return found & MODULES.keys()


# the package's face hands names on when they are asked for; nobody imports it from inside but for the version
ARROWS = {name: imported(path) - {name} for name, path in MODULES.items() if name != "lipsep"}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "lipsep"


def test_every_import_goes_down() -> None:
    assert {room(name) for name in ARROWS} <= set(DOWN_TO_UP), "a new room needs its place in DOWN_TO_UP"
    upwards = [
        f"{name} imports {other}"
        for name, others in ARROWS.items()
        for other in others
        if other == "lipsep" or DOWN_TO_UP.index(room(other)) > DOWN_TO_UP.index(room(name))
    ]
    assert not upwards


@pytest.mark.parametrize(
    ("rooms", "never"), [(NETWORKS, MAIN_PATH | {"data", "training"}), (MAIN_PATH, NETWORKS - {"kernels"})]
)
def test_networks_know_nothing_of_files_and_files_nothing_of_networks(rooms: set[str], never: set[str]) -> None:
    assert not [
        f"{name} imports {other}" for name, others in ARROWS.items() for other in others
        if room(name) in rooms and room(other) in never
    ]  # fmt: skip


def test_only_the_command_line_imports_the_commands() -> None:
    users = {room(name) for name, others in ARROWS.items() if any(room(other) == "commands" for other in others)}
    assert users <= {"commands", "cli"}


def test_no_module_reaches_itself() -> None:
    def reached(name: str, seen: set[str]) -> set[str]:
        for other in ARROWS.get(name, ()):
            if other not in seen:
                seen.add(other)
                reached(other, seen)
        return seen

    assert not [name for name in ARROWS if name in reached(name, set())]


@pytest.mark.parametrize("name", sorted(name for name in MODULES if room(name) in NETWORKS - {"kernels"}))
def test_networks_read_like_the_papers_and_leave_forms_to_the_kernels(name: str) -> None:
    chosen = {"is_grad_enabled", "is_tracing", "is_in_onnx_export", "is_exporting", "is_cuda", "is_meta"}
    nodes = list(ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))))
    assert not chosen & {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not [node for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node).endswith("device.type")]
    assert "lipsep.kernels.native" not in imported(MODULES[name])


def test_few_modules_lie_loose() -> None:
    loose = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(loose) <= MOST_LOOSE, f"{len(loose)} modules lie loose in lipsep/: {', '.join(loose)}"


def test_no_room_without_a_name_and_no_file_that_nobody_reads_to_its_end() -> None:
    names = [path.name for path in MODULES.values()]
    assert not {"utils.py", "misc.py", "helpers.py", "common.py"} & set(names)
    folders = [PACKAGE.parent / folder for folder in ("lipsep", "tests", "benchmarks", "scripts")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert not [path.name for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 500]


def test_no_two_test_files_have_one_name():
    """pytest imports them by that name: the second would not be collected, though each passes alone."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
