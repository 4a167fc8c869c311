"""Figures exist as vector and picture, say what they should, and are told apart without colour."""

from __future__ import annotations

import csv
from itertools import pairwise

import cv2
import numpy as np
import pytest
import scipy.fft
import soundfile
import torch
from typer.testing import CliRunner

from lipsep.cli import app
from lipsep.errors import MediaError, ModelError
from lipsep.evaluation.cases import Case
from lipsep.evaluation.paper_tables import paper_quality, paper_tables
from lipsep.models import create_model
from lipsep.plots.cost import draw_quality_cost
from lipsep.plots.curves import draw_curves, read_curves
from lipsep.plots.heat import IMPULSE_AT, gaussian, heat, tones_and_impulse
from lipsep.plots.lips import draw_lip_strips, read_strip
from lipsep.plots.masks import draw_masks, masks_of
from lipsep.plots.style import line_style


def check(written, width_in):
    """A PDF with its fonts in it, and a grey PNG of the width of a column at 300 dpi."""
    pdf, png = written
    assert pdf.read_bytes().startswith(b"%PDF") and b"/Type3" not in pdf.read_bytes()
    picture = cv2.imread(str(png))
    assert picture.shape[1] == pytest.approx(300 * width_in, abs=2)
    assert np.ptp(picture.astype(int), axis=2).max() == 0
    assert 0.0 < np.mean(picture < 128) < 0.6
    return picture


def test_spectrograms_from_the_command_line(tmp_path):
    rng = np.random.default_rng(0)
    names = [tmp_path / f"{name}.wav" for name in ("mixture", "reference", "loud", "quiet")]
    tone = np.sin(2 * np.pi * 2000 * np.arange(16_000) / 16_000)
    for name, sound in zip(names, (0.1 * rng.normal(size=16_000), 0.1 * tone, 0.1 * tone, 1e-6 * tone), strict=True):
        soundfile.write(name, sound, 16_000, subtype="FLOAT")
    result = CliRunner().invoke(app, ["plot", "spectrograms", *map(str, names), "-o", str(tmp_path / "grid")])
    assert result.exit_code == 0 and "grid.pdf" in result.stdout
    picture = check([tmp_path / "grid.pdf", tmp_path / "grid.png"], 7.2)
    assert picture.shape[0] > 900  # two rows of panels


def test_heat_diffusion_is_that_of_fig_5_and_keeps_more_of_an_impulse_than_21_taps(tmp_path):
    """alpha 0.8, t 1.2: frequency p of the cosine transform is weakened by exp(-0.96 (p pi / T)^2), Eq. 3 and 4."""
    x = tones_and_impulse()
    decay = np.exp(-0.8 * 1.2 * np.square(np.pi * np.arange(len(x)) / len(x)))
    np.testing.assert_allclose(heat(x), scipy.fft.idct(scipy.fft.dct(x) * decay), atol=1e-6)
    response = gaussian(np.eye(41)[20])
    assert np.count_nonzero(response) == 21 and response.sum() == pytest.approx(1.0)
    impulse = np.zeros(len(x))
    impulse[IMPULSE_AT] = 1.0
    assert heat(impulse)[IMPULSE_AT] > 2 * gaussian(impulse)[IMPULSE_AT]
    assert CliRunner().invoke(app, ["plot", "heat", "-o", str(tmp_path / "heat")]).exit_code == 0
    check([tmp_path / "heat.pdf", tmp_path / "heat.png"], 7.2)


def test_curves_read_the_logs_of_training_and_of_iterations(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train_loss,val_loss\n0,10,3.0,\n0,20,,2.5\n1,30,1.0,\n1,40,,0.5\n"
    )
    x_name, curves = read_curves(tmp_path / "metrics.csv")
    assert x_name == "epoch" and curves["val_loss"] == [(0, 2.5), (1, 0.5)] and "step" not in curves
    check(draw_curves(curves, x_name, "loss", tmp_path / "curves"), 3.5)
    (tmp_path / "quality.csv").write_text("iteration,bin_12\n1,2.0\n2,4.0\n")
    assert read_curves(tmp_path / "quality.csv", ["bin_12"])[1] == {"bin_12": [(1, 2), (2, 4)]}
    with pytest.raises(MediaError, match="no column pesq: choose from iteration, bin_12"):
        read_curves(tmp_path / "quality.csv", ["pesq"])
    with pytest.raises(MediaError, match="no table at"):
        read_curves(tmp_path / "nothing.csv")


def test_neighbouring_lines_differ_in_dashes_and_marker():
    styles = [line_style(k) for k in range(8)]
    assert all(a["linestyle"] != b["linestyle"] and a["marker"] != b["marker"] for a, b in pairwise(styles))


def test_lip_strips_show_the_same_moments(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 255, (30, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", data=pictures)
    written = draw_lip_strips({"original": read_strip(tmp_path / "a.npz"), "back": pictures // 2}, tmp_path / "lips")
    check(written, 7.2)
    with pytest.raises(MediaError, match="different numbers of pictures"):
        draw_lip_strips({"original": pictures, "back": pictures[:-1]}, tmp_path / "lips")
    np.savez(tmp_path / "b.npz", other=pictures)
    with pytest.raises(MediaError, match=r"needed is an array 'data'"):
        read_strip(tmp_path / "b.npz")


def test_masks_are_those_that_the_model_lays_over_the_mixture(tmp_path):
    torch.manual_seed(0)
    model = create_model("bin_test").eval()
    size = model.config.lip_size
    lips = np.random.default_rng(0).normal(size=(2, 25, size, size)).astype(np.float32)
    mixture = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    case = Case("m-0", ("ann", "bob"), ("ann", "bob"), (0.0, 0.0), mixture, np.stack([mixture] * 2), lips)
    masks = masks_of(model, case)
    assert list(masks) == ["ann", "bob"] and all(mask.min() >= 0 and mask.max() > 0 for mask in masks.values())
    assert masks["ann"].shape[0] == model.config.audio_channels and not np.array_equal(masks["ann"], masks["bob"])
    check(draw_masks(masks, tmp_path / "masks", 1.0), 7.2)
    with pytest.raises(ModelError, match="lays no masks"):
        masks_of(create_model("dolphin_test").eval(), case)


def test_quality_over_cost_shows_the_published_models_alone(tmp_path):
    columns = ["model", "seconds", "macs", "params"]
    with (tmp_path / "profile.csv").open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerows([columns, ["dolphin", 1.0, 11.6e9, 7e6], ["iianet", 1.0, 25e9, 14e6], ["mine", 1.0, 1e9, 1e6]])
    check(draw_quality_cost(tmp_path / "profile.csv", tmp_path / "cost"), 3.5)
    (tmp_path / "mine.csv").write_text("model,seconds,macs,params\nmine,1,1e9,1e6\n")
    with pytest.raises(MediaError, match="none of mine has an SI-SNRi in a paper"):
        draw_quality_cost(tmp_path / "mine.csv", tmp_path / "cost")


def test_published_figures_are_those_of_the_papers(shared):
    import json

    theirs = json.loads((shared / "reference" / "published.json").read_text())
    ours = paper_tables()
    assert "2509.23610" in ours["_source"] and "2507.07270" in ours["_source"]
    assert ours["bin"] == theirs["bin"]
    assert {key: value for key, value in ours["dolphin"].items() if key != "model_zoo_vox2"} == theirs["dolphin"]
    assert paper_quality()["dolphin"] == 16.8
