"""`lipsep export`: a model as an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.constants import FPS
from lipsep.errors import ModelError, OutputError, needs_extra


def export(
    model: Annotated[str, typer.Argument(help="Name, folder or hub id of the model; see 'lipsep models'.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")] = Path("model.onnx"),
    precision: Annotated[str, typer.Option(help="Of the stored weights: fp32, or fp16 for half the size.")] = "fp32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where there is one.")] = False,
) -> None:
    """Write a model as one ONNX graph of dynamic length, checked against PyTorch at three lengths.

    What the graph takes (lip recipe, rates, lengths) and its weights' licence stand in its metadata. It runs with
    'lipsep separate FILE --model model.onnx'.
    """
    if out.suffix != ".onnx":
        raise OutputError(f"'{out}' must end in .onnx, by which 'lipsep separate' knows a graph")
    if out.exists() and not overwrite:
        raise OutputError(f"'{out}' is there already: use --overwrite to replace it or choose another file")
    if not out.parent.is_dir():
        raise OutputError(f"the folder '{out.parent}' does not exist: create it or choose another file")
    with needs_extra("exporting", "onnx"):
        from lipsep.onnx.export import export_onnx
    from lipsep.checkpoints.folder import load_model

    lengths, error = export_onnx(load_model(model), out, precision)
    typer.echo(
        f"written: '{out}', {out.stat().st_size / 1e6:.1f} MB, takes {lengths}; "
        f"differs from PyTorch by at most {error:.1e} of the peak (checked at "
        f"{', '.join(f'{frames / FPS:g}' for frames in lengths.three())} s)"
    )


def check_runtime(runtime: str | None, model: str | None) -> None:
    """Whether --runtime fits --model: graphs run by ONNX Runtime alone, everything else by PyTorch alone.

    Raises:
        ModelError: it does not.
    """
    is_graph = (model or "").endswith(".onnx")
    if runtime not in (None, "torch", "onnx"):
        raise ModelError(f"--runtime '{runtime}' is not a choice: use torch or onnx")
    if runtime == "onnx" and not is_graph:
        from lipsep.checkpoints.catalogue import DEFAULT_MODEL

        raise ModelError(
            f"--runtime onnx needs a graph: write it with  lipsep export {model or DEFAULT_MODEL} -o model.onnx  and "
            "name it with --model model.onnx"
        )
    if runtime == "torch" and is_graph:
        raise ModelError(f"'{model}' is an ONNX graph, which PyTorch cannot run: leave --runtime out, or use onnx")
