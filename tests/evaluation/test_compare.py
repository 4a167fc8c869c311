"""Evaluations side by side, where the truth about the difference is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from typer.testing import CliRunner

from lipsep.cli import app
from lipsep.errors import MediaError
from lipsep.evaluation.compare import compare
from lipsep.evaluation.metrics import METRICS
from lipsep.evaluation.tables import write_rows


def store(folder, values, pesq=2.0, prefix="m"):
    """An evaluation of two voices per mixture with these SI-SNRi."""
    folder.mkdir()
    rows = [
        {
            **dict.fromkeys(METRICS, 1.0), "condition": "as given", "mixture": f"{prefix}-{k // 2:04d}",
            "position": k % 2, "source": f"s{k % 2}", "talker": "t", "n_src": 2, "gain_db": 0.0,
            "relative_level_db": 0.0, "own_voice": True, "si_snri": float(value), "pesq": pesq,
        }
        for k, value in enumerate(values)
    ]  # fmt: skip
    write_rows(folder / "utterances.csv", rows)
    return folder


@pytest.fixture
def three(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.normal(10, 5, 80)
    return [
        store(tmp_path / "base", base),
        store(tmp_path / "better", base + 1 + 0.5 * rng.normal(size=80)),
        store(tmp_path / "same", base + 0.5 * rng.normal(size=80)),
    ]


def test_a_real_difference_is_significant_and_noise_is_not(three):
    systems = compare(three).systems
    better, same = systems["better"]["si_snri"], systems["same"]["si_snri"]
    assert better.significant and better.low < 1 < better.high and better.high - better.low < 0.5
    assert not same.significant and same.low < 0 < same.high
    assert better.difference == pytest.approx(better.mean - systems["base"]["si_snri"].mean)


def test_only_what_all_have_counts_and_undefined_values_are_counted(three, tmp_path):
    fewer = store(tmp_path / "fewer", [5.0] * 10, pesq=math.nan)
    comparison = compare([three[0], fewer])
    assert (comparison.mixtures, comparison.utterances) == (5, 10)
    assert comparison.systems["fewer"]["pesq"].undefined == 10 and math.isnan(comparison.systems["fewer"]["pesq"].mean)
    with pytest.raises(MediaError, match="share no utterance"):
        compare([three[0], store(tmp_path / "other", [1.0, 2.0], prefix="x")])
    with pytest.raises(MediaError, match="no evaluation at"):
        compare([three[0], tmp_path / "nothing"])


def test_the_table_says_which_differences_count(three):
    result = CliRunner().invoke(app, ["compare", *map(str, three)])
    assert result.exit_code == 0
    lines = {line.split("|")[1].strip(): line for line in result.stdout.splitlines() if line.startswith("|")}
    assert " *" in lines["better"] and " *" not in lines["same"] and "(+" not in lines["base"]
    assert "40 mixtures, 80 utterances" in result.stdout
    assert CliRunner().invoke(app, ["compare", str(three[0])]).exit_code == 2
