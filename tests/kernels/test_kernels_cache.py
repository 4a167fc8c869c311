"""Where compiled kernels are kept: damaged and foreign libraries, folders of others, compilers that are none."""

from __future__ import annotations

import _ctypes
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lipsep.kernels import native
from lipsep.kernels.relative_attention import scaled_attention

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="compiles a small library with cc"
)
OURS, FOREIGN = "int attend(void) { return 0; } int conv_norm(void) { return 0; }", "int other(void) { return 0; }"


def compiled(source: str, path: Path) -> Path:
    path.with_suffix(".c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(path), str(path.with_suffix(".c"))], check=True)
    return path


@pytest.fixture
def found(tmp_path, monkeypatch) -> Callable[[], tuple[str, int]]:
    """What `status` says of a fresh process, and how often the compiler has run: one that takes no time."""
    library, runs = compiled(OURS, tmp_path / "ours.so"), tmp_path / "runs"
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho x >> "{runs}"\nfor last; do :; done\ncp "{library}" "$last"\n')
    compiler.chmod(0o700)
    runs.write_text("")
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LIPSEP_NATIVE", raising=False)

    def look() -> tuple[str, int]:
        native._library.cache_clear()
        loaded, said = native._library()
        native._library.cache_clear()
        if loaded is not None:  # so that the next look is that of a new process
            assert loaded.attend() == loaded.conv_norm() == 0
            _ctypes.dlclose(loaded._handle)
        return said, runs.read_text().count("x")

    return look


def kept(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "lipsep").glob("kernels-*.so")
    return path


def test_it_is_compiled_once_into_a_folder_of_the_users_own(found, tmp_path):
    assert found() == found() == ("compiled for this processor", 1)
    for folder in (tmp_path / "cache", tmp_path / "cache" / "lipsep"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "foreign", "others may write", "another user's", "a link"])
def test_a_library_that_is_not_ours_is_compiled_anew(found, tmp_path, damage):
    found()
    path = kept(tmp_path)
    content = path.read_bytes()
    if damage in ("foreign", "empty", "text", "cut"):
        path.unlink()  # this process has the old one in its memory
    if damage == "foreign":
        shutil.copy(compiled(FOREIGN, tmp_path / "foreign.so"), path)
    elif damage == "others may write":
        path.chmod(0o666)
    elif damage == "another user's":
        if os.getuid():
            pytest.skip("only the administrator can give a file away")
        os.chown(path, 12345, 12345)
    elif damage == "a link":
        shutil.move(path, tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
    else:
        path.write_bytes({"empty": b"", "text": b"no library", "cut": content[:100]}[damage])
    assert found() == ("compiled for this processor", 2)
    assert found() == ("compiled for this processor", 2)


@pytest.mark.parametrize("place", [".", "cache", "cache/lipsep"])
def test_a_folder_into_which_others_may_write_is_not_used(found, tmp_path, place):
    found()
    (tmp_path / place).chmod(0o777)
    said, n_runs = found()
    assert "others may write to" in said and n_runs == 1
    (tmp_path / place).chmod(0o700)
    assert found()[0] == "compiled for this processor"


def test_a_relative_cache_folder_is_passed_over(found, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert found() == ("compiled for this processor", 1)
    assert list((tmp_path / "home" / ".cache" / "lipsep").glob("*.so")) and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("compiler", "said"), [("g++ 'unclosed", "CXX cannot be read"), ("/no/such/compiler", ""), ("false", "could not")]
)
def test_a_compiler_that_is_none_leaves_pytorch_alone(found, monkeypatch, compiler, said):
    monkeypatch.setenv("CXX", compiler)
    told, n_runs = found()
    assert told.startswith("PyTorch alone") and said in told and n_runs == 0 and "\n" not in told


def test_several_that_compile_at_once_all_get_a_library(found, tmp_path):
    script = "from lipsep.kernels import native; print(native._library()[1])"
    told: list[str] = []

    def run() -> None:
        told.append(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["compiled for this processor"] * 3
    assert [path.name for path in (tmp_path / "cache" / "lipsep").iterdir()] == [kept(tmp_path).name]


def test_nothing_is_computed_of_nothing_as_pytorch_does_it():
    """No steps to convolve, no keys to attend to: a kernel would read past the end."""
    for empty in torch.empty(2, 0, 16), torch.empty(0, 5, 16):
        assert not native.takes(empty) and not native.takes(torch.ones(2, 5, 16), empty)
        assert not native.takes_sequences(empty)
    q, nothing = torch.ones(1, 2, 3, 8), torch.empty(1, 2, 0, 8)
    assert torch.equal(
        scaled_attention(q, nothing, nothing), torch.nn.functional.scaled_dot_product_attention(q, nothing, nothing)
    )
