"""config.json from strangers: every value that a setting can be given is loaded rightly or refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from lipsep.checkpoints.folder import load_model, save_model
from lipsep.errors import ModelError, WeightsError
from lipsep.models import create_model, list_models, model_config

HUGE = (100_000, 2**31, 2**63, 10**40)
WRONG = (
    0,
    -1,
    *HUGE,
    7,
    0.5,
    1e300,
    float("nan"),
    float("inf"),
    "8",
    "",
    "x" * 10_000,
    None,
    True,
    [],
    [1] * 10_000,
    {},
)
KINDS = ("dolphin_test", "iianet_test", "avlit_test", "bin_test", "rtfsnet_test", "swiftnet_test")


@pytest.fixture(scope="module", params=[name for name in KINDS if name in list_models()])
def folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    save_model(create_model(request.param), folder, {"licence": "CC0"})
    return folder


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def card_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def write(folder: Path, card: Any) -> None:
    (folder / "config.json").write_text(card if isinstance(card, str) else json.dumps(card))


def refused(folder: Path, what: object) -> str:
    with pytest.raises(WeightsError) as told:
        load_model(folder)
    assert "\n" not in str(told.value) and len(str(told.value)) < 1000, what
    return str(told.value)


def test_every_wrong_value_of_every_setting_is_refused_or_changes_no_weight(copy):
    """Some settings leave the weights as they are (dropout, rounds of a shared block): then in their range alone."""
    original = card_of(copy)
    usual, state = model_config(original["model"]), load_model(copy).state_dict()
    n_refused = 0
    for field in dataclasses.fields(usual):
        for value in WRONG:
            if value == getattr(usual, field.name) and type(value) is type(getattr(usual, field.name)):
                continue
            write(copy, {**original, "config": {**original["config"], field.name: value}})
            try:
                model = load_model(copy)
            except ModelError as error:
                assert isinstance(error, WeightsError) and "\n" not in str(error) and len(str(error)) < 1000
                n_refused += 1
                continue
            kept = model.state_dict()
            assert all(torch.equal(kept[key], state[key]) for key in state), (field.name, value)
            set_to = getattr(model.config, field.name)
            assert type(set_to) in (type(getattr(usual, field.name)), type(None), int, str), (field.name, value)
            assert set_to not in HUGE and set_to == set_to, (field.name, value)
            assert isinstance(set_to, str) == isinstance(getattr(usual, field.name) or set_to, str), (field.name, value)
    assert n_refused > 10 * len(dataclasses.fields(usual))


@pytest.mark.parametrize("value", HUGE)
def test_a_size_that_is_not_that_of_the_weights_is_refused_before_memory_is_asked_for(copy, value):
    """40 GB were asked for once. The process of this test may have 3 GB more than PyTorch."""
    original = card_of(copy)
    sizes = [key for key, n in original["config"].items() if type(n) is int and n > 0]
    script = (
        "import json, resource, sys; from pathlib import Path; import torch; from lipsep.checkpoints.folder import *\n"
        "from lipsep.errors import WeightsError\n"
        "folder, sizes, value = Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2])\n"
        "load_model(folder)\n"
        "taken = next(1024 * int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmData'))\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (taken + 3 * 2**30,) * 2)\n"
        "card = json.loads((folder / 'config.json').read_text())\n"
        "for key in sizes:\n"
        "    for number in (value, 1000):\n"
        "        changed = {**card, 'config': {**card['config'], key: number}}\n"
        "        (folder / 'config.json').write_text(json.dumps(changed))\n"
        "        try: load_model(folder)\n"
        "        except WeightsError as error: assert number == 1000 or key in str(error), (key, error)\n"
        "print('refused', len(sizes))\n"
    )
    if sys.platform != "linux" or value != HUGE[0]:
        for key in sizes:
            write(copy, {**original, "config": {**original["config"], key: value}})
            assert key in refused(copy, key)
        return
    command = [sys.executable, "-c", script, str(copy), str(value), *sizes]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0 and ran.stdout.strip() == f"refused {len(sizes)}", ran.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(({"model": value}, "model") for value in (None, 7, [], {}, True)),
        *(({"config": value}, "config") for value in (None, 7, [], "x")),
        *(({"lip_recipe": value}, "lip_recipe") for value in (None, 7, ["mesh_32"])),
        *(({"keeps_level": value}, "keeps_level") for value in (None, 1, "false")),
        ({"model": "no such model"}, "no such model"),
        ({"config": {"wings": 2}}, "wings"),
    ],
)
def test_entries_of_another_kind_are_named(copy, change, named):
    write(copy, {**card_of(copy), **change})
    assert named in refused(copy, change)


@pytest.mark.parametrize("entry", ["model", "config", "lip_recipe", "keeps_level"])
def test_missing_entries_are_named(copy, entry):
    card = card_of(copy)
    del card[entry]
    write(copy, card)
    assert f"lacks the entry '{entry}'" in refused(copy, entry)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", "[" * 100_000, '{"a":' * 100_000, "\0", "NaN", "{}" + " " * 2**21]
)
def test_what_is_no_description_is_refused(copy, text):
    write(copy, text)
    refused(copy, text[:20])


def test_combinations_that_make_no_model_are_refused(copy):
    """Each setting in its range, and yet nothing that can be built."""
    original = card_of(copy)
    sizes = [key for key, n in original["config"].items() if type(n) is int and n > 0]
    for key, other in pairwise([*sizes, sizes[0]]):
        write(copy, {**original, "config": {**original["config"], key: 1, other: 997}})
        try:
            load_model(copy)
        except ModelError as error:
            assert isinstance(error, WeightsError) and "\n" not in str(error)
