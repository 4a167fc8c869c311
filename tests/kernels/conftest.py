"""The forms in which operations run, brought about one after another."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from lipsep.kernels import native
from lipsep.kernels.exporting import exporting


@dataclass
class Form:
    """One of `FORMS`, and which compiled kernels have run in it."""

    name: str
    ran: set[str] = field(default_factory=set)

    @property
    def is_compiled(self) -> bool:
        return self.name.startswith("compiled")

    def assert_ran(self, *kernels: str) -> None:
        """These kernels where there are compiled ones, none elsewhere."""
        assert self.ran == (set(kernels) if self.is_compiled else set())


FORMS = {
    "compiled": {"threads": 1},
    "compiled for 2 threads": {"threads": 2},
    "compiled for vectors half as wide": {"threads": 2, "flag": "-mno-avx512f"},
    "pytorch": {"threads": 1},
    "exported": {"threads": 1},
}


@pytest.fixture
def fresh() -> Iterator[None]:
    """The library is looked for anew in this test, and again after it."""
    native._library.cache_clear()
    yield
    native._library.cache_clear()


@pytest.fixture(scope="session")
def narrow_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library for narrower vectors is kept: compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(params=FORMS)
def form(
    request: pytest.FixtureRequest, fresh: None, narrow_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Form]:
    """Each form in turn; compiled ones are skipped where there is no compiler."""
    found, threads = Form(request.param), torch.get_num_threads()
    if "flag" in FORMS[found.name]:
        if platform.machine() != "x86_64":
            pytest.skip("vectors of two widths are for x86 processors")
        if native.takes():
            monkeypatch.setenv("CXX", f"{shlex.join(native._compiler())} {FORMS[found.name]['flag']}")
            monkeypatch.setenv("XDG_CACHE_HOME", str(narrow_cache))
            native._library.cache_clear()
    if found.is_compiled and not native.takes():
        pytest.skip(native.status())
    if found.name == "pytorch":
        monkeypatch.setenv("LIPSEP_NATIVE", "0")
        native._library.cache_clear()

    def run(name: str, *arguments: Any) -> None:
        found.ran.add(name)
        plain_run(name, *arguments)

    plain_run = native.run
    monkeypatch.setattr(native, "run", run)
    torch.set_num_threads(FORMS[found.name]["threads"])
    torch.manual_seed(0)
    try:
        if found.name == "exported":
            with exporting():
                yield found
        else:
            yield found
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def compiled(form: Form) -> Form:
    """The compiled forms alone."""
    if not form.is_compiled:
        pytest.skip("compiled kernels alone")
    return form
