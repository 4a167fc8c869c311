"""What can be asked of a separation can be asked everywhere, under one name and with one answer to nonsense."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from lipsep.cli import app
from lipsep.errors import OptionError
from lipsep.separation.options import Options, variable
from lipsep.separator import Separator

SAMPLES = {
    "speakers": "2", "detect_every_n": "3", "face_scale": "1.5", "keep_offscreen": "1", "iterations": "4",
    "rate": "original", "video": "none", "save_artifacts": "1", "streaming": "1", "sync": "-80", "overwrite": "1",
}  # fmt: skip
"""Another value than the default."""


@pytest.fixture
def asked(monkeypatch) -> list[Options]:
    """The options with which the command line calls the main path."""
    calls: list[Options] = []

    def separator(source: Path, folder: Path, *, options: Options, hook) -> SimpleNamespace:
        calls.append(options)
        return SimpleNamespace(skipped=True)

    monkeypatch.setattr("lipsep.commands.separate.open_separator", lambda *_: separator)
    return calls


@pytest.mark.parametrize("name", SAMPLES)
def test_every_option_is_a_flag_and_an_environment_variable(name: str, asked, tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"no film")
    expected = Options.of(**{name: SAMPLES[name]})
    assert expected != Options()
    flag = f"--{name.replace('_', '-')}"
    is_flag = Options.model_fields[name].annotation is bool
    by_flag = CliRunner().invoke(app, ["separate", str(clip), flag, *([] if is_flag else [SAMPLES[name]])])
    by_variable = CliRunner().invoke(app, ["separate", str(clip)], env={variable(name): SAMPLES[name]})
    assert (by_flag.exit_code, by_variable.exit_code) == (0, 0), by_flag.output + by_variable.output
    assert asked == [expected, expected]
    assert variable(name) == f"LIPSEP_{name.upper()}"


def test_a_flag_beats_the_environment(asked, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no film")
    arguments = ["separate", str(tmp_path / "a.mp4"), "--face-scale", "3"]
    assert CliRunner().invoke(app, arguments, env={"LIPSEP_FACE_SCALE": "2"}).exit_code == 0
    assert asked[0].face_scale == 3


def test_programs_read_the_environment_too(monkeypatch) -> None:
    monkeypatch.setenv("LIPSEP_RATE", "original")
    monkeypatch.setenv("LIPSEP_KEEP_OFFSCREEN", "true")
    assert Options.from_environment() == Options(rate="original", keep_offscreen=True)
    assert Options.from_environment(rate="16k").rate == "16k"
    monkeypatch.setenv("LIPSEP_RATE", "48k")
    with pytest.raises(OptionError, match="rate '48k' is not a choice: use '16k' or 'original'"):
        Options.from_environment()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "48k"}, "rate '48k' is not a choice: use '16k' or 'original'"),
        ({"video": "gif"}, "video 'gif' is not a choice: use 'none', 'original' or 'tracked'"),
        ({"sync": "on"}, "sync 'on' is not a choice: use auto, off, or milliseconds"),
        ({"sync": float("nan")}, "sync 'nan' is not a choice"),
        ({"face_scale": 0}, "face_scale '0' is not a choice: input should be greater than 0"),
        ({"face_scale": 1e9}, "face_scale"),
        ({"speakers": -1}, "speakers '-1' is not a choice"),
        ({"speaker": 2}, "there is no option 'speaker': there are speakers, "),
    ],
)
def test_nonsense_is_refused_in_one_line_that_names_it(values: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message) as refused:
        Options.of(**values)
    assert "\n" not in str(refused.value)


def test_options_are_frozen_and_the_main_path_takes_them_by_name(model_folder: Path) -> None:
    with pytest.raises(ValidationError):
        Options().speakers = 2
    assert Options(speakers=0).speakers is None
    separator = Separator(model_folder, "cpu")
    with pytest.raises(OptionError, match="there is no option 'speeker'"):
        separator("a.mp4", speeker=2)
    with pytest.raises(OptionError, match="within `options`"):
        separator("a.mp4", options=Options(), speakers=2)
