"""Exported graphs compute what PyTorch does, at any declared length, and take the model's place in the main path."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("onnx", reason="the extra lipsep[onnx] is not installed")

import onnx
import soundfile
from scenes import build_clip, demo_people

from lipsep import load_model
from lipsep.checkpoints.catalogue import DEFAULT_MODEL
from lipsep.checkpoints.folder import save_model
from lipsep.cli import app
from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.errors import ModelError, WeightsError
from lipsep.kernels.exporting import exporting
from lipsep.models import create_model
from lipsep.models.dolphin import Dolphin
from lipsep.onnx.export import Lengths, example, export_onnx
from lipsep.onnx.runtime import OnnxModel


def dolphin(name: str, **changes: object) -> Dolphin:
    """With diffusivities from nearly none to wide, as training leaves them."""
    torch.manual_seed(0)
    model = create_model(name, **changes).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(".k"):
                parameter.uniform_(0.02, 3.0)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Dolphin, Path, OnnxModel]:
    model = dolphin("dolphin_test")
    model.metadata = {"licence": "CC0", "provenance": "random numbers"}
    file = tmp_path_factory.mktemp("graphs") / "tiny.onnx"
    lengths, error = export_onnx(model, file)
    assert error < 1e-4
    assert str(lengths) == "0.32 to 8 s in steps of 0.16 s"
    return model, file, load_model(file)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Two people for 52 frames, a length that graphs take as it is."""
    path = tmp_path_factory.mktemp("clips") / "two.mp4"
    build_clip(demo_people(), path, duration_s=2.08, size=(640, 360))
    return path


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", ["dolphin_test", "dolphin_laptop", "dolphin_laptop_together", "voices_first_test"])
def test_onnx_operators_compute_the_same(name: str) -> None:
    model = dolphin(name)
    with torch.inference_mode():
        for n_frames in Lengths.of(model).three()[:2]:
            inputs = example(model, n_frames, batch=2)
            with exporting():
                found = model(*inputs)
            assert relative_error(found, model(*inputs)) < 1e-4


def test_a_recurrence_is_one_graph_for_every_length(tmp_path: Path) -> None:
    """What goes step by step in PyTorch, simple recurrent units, is ONNX's own loop; lags are found in it too."""
    model = dolphin("voices_first_test", n_fft=512, hop=256, bands=(1, 8, 16, 32, 64, 136))  # as the default
    lengths, error = export_onnx(model, tmp_path / "tiny.onnx")
    assert error < 1e-4
    graph = load_model(tmp_path / "tiny.onnx")
    for n_frames, batch in ((lengths.least + lengths.step, 3), (44, 2)):
        inputs = example(model, n_frames, batch)
        with torch.inference_mode():
            assert relative_error(graph(*inputs), model(*inputs)) < 1e-4


def test_one_graph_for_every_declared_length(exported: tuple[Dolphin, Path, OnnxModel]) -> None:
    model, _, graph = exported
    lengths = Lengths.of(model)
    for n_frames, batch in ((lengths.least + lengths.step, 3), (40, 1), (lengths.most, 1)):
        inputs = example(model, n_frames, batch)
        with torch.inference_mode():
            assert relative_error(graph(*inputs), model(*inputs)) < 1e-4


def test_lengths_in_between_are_filled_up(exported: tuple[Dolphin, Path, OnnxModel]) -> None:
    """As silence and blank pictures would do it for PyTorch, and what is too long is refused."""
    model, _, graph = exported
    mixture, lips = example(model, 12, batch=1)
    mixture[:, 10 * SAMPLES_PER_FRAME - 100 :], lips[:, 10:] = 0, 0
    with torch.inference_mode():
        wanted = model(mixture, lips)[..., : 10 * SAMPLES_PER_FRAME - 100]
        found = graph(mixture[:, : 10 * SAMPLES_PER_FRAME - 100], lips[:, :10])
    assert found.shape == wanted.shape and relative_error(found, wanted) < 1e-4
    with pytest.raises(ModelError, match="at most 8 s at once"):
        graph(*example(model, 204, batch=1))


def test_a_graph_says_what_it_is(exported: tuple[Dolphin, Path, OnnxModel]) -> None:
    model, file, graph = exported
    facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert facts["lip_recipe"] == "mesh_32" and facts["licence"] == "CC0"
    assert facts["provenance"] == "random numbers" and facts["sample_rate"] == "16000"
    assert (graph.name, graph.lip_recipe, graph.n_parameters) == ("dolphin_test", "mesh_32", model.n_parameters)
    with pytest.raises(ModelError, match="runs on the processor"):
        graph.to("meta")


@pytest.mark.slow
def test_separate_with_a_graph_gives_what_the_folder_gives(
    exported: tuple[Dolphin, Path, OnnxModel], clip: Path, tmp_path: Path
) -> None:
    model, file, _ = exported
    save_model(model, tmp_path / "folder", {"licence": "CC0"})
    voices = []
    for name, options in (("folder", []), ("graph", ["--runtime", "onnx"])):
        weights = str(file if options else tmp_path / "folder")
        arguments = ["separate", str(clip), "-o", str(tmp_path / name), "--model", weights, "--video", "none", *options]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        voices.append(soundfile.read(tmp_path / name / clip.stem / "speaker_1.wav")[0])
    report = json.loads((tmp_path / "graph" / clip.stem / "report.json").read_text())["model"]
    assert (report["name"], report["licence"], report["parameters"]) == ("dolphin_test", "CC0", model.n_parameters)
    assert np.abs(voices[0] - voices[1]).max() < 1e-3 * np.abs(voices[0]).max() + 2**-15


def test_what_cannot_run_is_refused(exported: tuple[Dolphin, Path, OnnxModel], tmp_path: Path) -> None:
    _, file, _ = exported
    with pytest.raises(WeightsError, match="no file"):
        load_model(tmp_path / "missing.onnx")
    (tmp_path / "damaged.onnx").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        load_model(tmp_path / "damaged.onnx")
    foreign = onnx.load(file)
    foreign.metadata_props.clear()
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ModelError, match="no lipsep metadata"):
        load_model(tmp_path / "foreign.onnx")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--runtime", "onnx"], f"lipsep export {DEFAULT_MODEL}"),
        (["--runtime", "onnx", "--model", "folder"], "lipsep export folder"),
        (["--runtime", "torch", "--model", "a.onnx"], "PyTorch cannot run"),
        (["--runtime", "tea"], "use torch or onnx"),
    ],
)
def test_runtimes_that_do_not_fit_the_model_are_refused(options: list[str], reason: str, tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.touch()
    result = CliRunner().invoke(app, ["separate", str(video), "-o", str(tmp_path / "out"), *options])
    assert isinstance(result.exception, ModelError) and reason in str(result.exception)


def test_existing_files_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"mine")
    assert CliRunner().invoke(app, ["export", "dolphin_laptop_together", "-o", str(file)]).exit_code != 0
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("av_convtasnet_test", {}),
        ("av_mossformer2", {"channels": 32, "n_layers": 1, "key_channels": 32, "group": 64, "memory_channels": 16}),
        pytest.param("visualvoice", {"channels": 2, "face_channels": 4, "face_size": 64}, marks=pytest.mark.slow),
    ],
    ids=["av_convtasnet", "av_mossformer2", "visualvoice"],
)
def test_other_families_export(name: str, sizes: dict[str, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    lip_size = {} if "test" in name else {"lip_size": 32}
    _, error = export_onnx(create_model(name, **sizes, **lip_size).eval(), tmp_path / "model.onnx")
    assert error < 1e-4


def test_what_tracing_fixes_is_found_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"avlit_test.*use --runtime torch"):
        export_onnx(create_model("avlit_test").eval(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_stride_across_frames_is_refused() -> None:
    with pytest.raises(ModelError, match="audio_stride=24"):
        Lengths.of(create_model("dolphin_test", audio_kernel=48, audio_stride=24))
