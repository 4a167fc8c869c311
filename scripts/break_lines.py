"""Break the lines that docs/fidelity.md lists under "Lines broken on purpose", one at a time, and see their tests fall.

    python scripts/break_lines.py [WORD ...]     # all of them, or those whose row has one of these words

Works in a copy of `lipsep`, `recipes` and `tests`, so that nothing here changes. The tests must pass before; then each
row's line is replaced and the row's test is run. Exit status 1 where a test does not notice.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("lipsep", "recipes", "tests", "docs", "benchmarks", "scripts", "pyproject.toml", "constraints.txt")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["lightning", "matplotlib", "pesq", "pystoi", "pytest", "scipy.signal", "torchmetrics"]
)
ROW = re.compile(r"^\| (\S+) \| `(.+)` \| `(.+)` \| `(.+)` \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, str, str]]:
    """File, line as it is, line broken, test."""
    page = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    return ROW.findall(page.split("# Lines broken on purpose\n", 1)[1])


def passes(copy: Path, *tests: str) -> bool:
    """Whether these fast tests pass in the copy, in a process that has imported what is slow to import, no lipsep."""
    process = PROCESSES.Process(target=run, args=(copy, tests))
    process.start()
    process.join()
    if process.exitcode not in (0, 1):  # 1: tests fell; all else is no answer
        sys.exit(f"pytest did not run {' '.join(tests)}: exit status {process.exitcode}")
    return process.exitcode == 0


def run(copy: Path, tests: tuple[str, ...]) -> None:
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = True  # a broken line may be as long as the right one, and as new
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *tests])
    sys.exit(int(status))


def main(words: list[str]) -> int:
    chosen = [row for row in rows() if not words or any(word in " ".join(row) for word in words)]
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        if not passes(copy, *sorted({test for *_, test in chosen})):
            sys.exit("these tests do not pass as the lines are: nothing was broken")
        for file, line, broken, test in chosen:
            path = copy / file
            whole = path.read_text(encoding="utf-8")
            if whole.count(line) != 1:
                sys.exit(
                    f"{file} has `{line}` {whole.count(line)} times; docs/fidelity.md needs a line that is there once"
                )
            path.write_text(whole.replace(line, broken), encoding="utf-8")
            noticed = not passes(copy, test)
            path.write_text(whole, encoding="utf-8")
            unnoticed += not noticed
            print(
                f"{'falls  ' if noticed else 'PASSES '} {file}: {line}  ->  {broken}  ({test.partition('::')[2]})",
                flush=True,
            )
    print(f"{len(chosen) - unnoticed} of {len(chosen)} were noticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
