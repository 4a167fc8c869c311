"""The columns of Dolphin's Table 4 and BIN's Table 2, for any models, as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import date

from lipsep.checkpoints.folder import load_model
from lipsep.constants import SAMPLE_RATE
from lipsep.models import create_model, list_models
from lipsep.profiling.counting import Macs, Parameters, count_macs, count_parameters
from lipsep.profiling.measuring import Measured, Setup, measure

NOT_RUN = "not run"


@dataclass(frozen=True)
class Profile:
    """One line of the table. `faces` is how many people one pass serves."""

    setup: Setup
    faces: int
    parameters: Parameters
    true: Macs
    hooks: Macs
    counter: str
    measured: Measured | None

    @property
    def name(self) -> str:
        return self.setup.model


def profile(setup: Setup, timed: bool = True) -> Profile:
    """Count a model, and measure it in a fresh process where `timed`.

    Raises:
        ModelError: no such model, or measuring it failed.
    """
    model = create_model(setup.model) if setup.model in list_models() else load_model(setup.model)
    counter = "thop" if setup.model.startswith("bin") else "ptflops"
    counts = count_macs(model, round(setup.seconds * SAMPLE_RATE), setup.batch, counter)
    measured = measure(setup) if timed else None
    return Profile(setup, model.n_faces, count_parameters(model), counts.true, counts.hooks, counter, measured)


def columns(row: Profile) -> dict[str, str]:
    """Headings with units, and one model's cells."""
    measured = row.measured
    cpu = gpu = gpu_mb = ram = cpu_time = NOT_RUN
    if measured is not None:
        cpu, cpu_time = _range(measured.cpu_ms), f"{measured.cpu_time_ms:.0f}"
        ram = NOT_RUN if measured.ram_mb is None else f"{measured.ram_mb:.0f}"
        if measured.gpu_ms is not None:
            gpu, gpu_mb = _range(measured.gpu_ms), f"{measured.gpu_mb:.0f}"
    return {
        "model": row.name,
        "faces": str(row.faces),
        "params w/o video M": f"{row.parameters.without_video_encoder / 1e6:.2f}",
        "params M": f"{row.parameters.total / 1e6:.2f}",
        "MACs w/o video G": f"{row.true.without_video_encoder / 1e9:.2f}",
        "MACs G": f"{row.true.total / 1e9:.2f}",
        "hooks w/o video G": f"{row.hooks.without_video_encoder / 1e9:.2f}",
        "hooks G": f"{row.hooks.total / 1e9:.2f}",
        "CPU ms": cpu,
        "CPU time ms": cpu_time,
        "GPU ms": gpu,
        "weights MB": f"{4 * row.parameters.total / 1e6:.1f}",
        "RAM MB": ram,
        "GPU MB": gpu_mb,
    }


def heading(rows: list[Profile]) -> str:
    """What holds for the whole table."""
    setup = rows[0].setup
    gpus = sorted({row.measured.gpu for row in rows if row.measured is not None and row.measured.gpu})
    how = (
        f"CPU on {setup.threads} thread{'s' if setup.threads > 1 else ''}, {setup.runs} runs, each model in a fresh "
        f"process: median (least..most); GPU: {', '.join(gpus) or NOT_RUN}. RAM: growth of the peak during a pass."
        if any(row.measured is not None for row in rows)
        else "Counted, not run."
    )
    return (
        f"Input {setup.seconds:g} s at 16 kHz with lips at 25 fps, batch {setup.batch}. {how} "
        "MACs: executed; hooks: as the literature counted them. Sorted by MACs."
    )


def in_order(rows: list[Profile]) -> list[Profile]:
    """Cheapest first, by executed multiply-accumulates."""
    return sorted(rows, key=lambda row: (row.true.total, row.name))


def as_markdown(rows: list[Profile]) -> str:
    cells = [columns(row) for row in in_order(rows)]
    lines = [list(cells[0]), ["---"] * len(cells[0]), *(list(row.values()) for row in cells)]
    return heading(rows) + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def as_text(rows: list[Profile]) -> str:
    cells = [columns(row) for row in in_order(rows)]
    lines = [list(cells[0]), *(list(row.values()) for row in cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for name, *others in lines:
        rest = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        aligned.append("  ".join([name.ljust(widths[0]), *rest]))
    return heading(rows) + "\n\n" + "\n".join(aligned) + "\n"


def as_csv(rows: list[Profile]) -> str:
    """One number per cell, plain units, for programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = [_numbers(row) for row in in_order(rows)]
    writer.writerow(numbers[0])
    writer.writerows(row.values() for row in numbers)
    return text.getvalue()


def _numbers(row: Profile) -> dict[str, object]:
    measured = row.measured
    cpu_ms = measured.cpu_ms if measured else (None,) * 3
    gpu_ms = measured.gpu_ms if measured and measured.gpu_ms else (None,) * 3
    return {
        "model": row.name,
        "seconds": row.setup.seconds,
        "batch": row.setup.batch,
        "faces": row.faces,
        "threads": row.setup.threads,
        "runs": row.setup.runs,
        "params": row.parameters.total,
        "params_without_video_encoder": row.parameters.without_video_encoder,
        "macs": row.true.total,
        "macs_without_video_encoder": row.true.without_video_encoder,
        "hook_macs": row.hooks.total,
        "hook_macs_without_video_encoder": row.hooks.without_video_encoder,
        "hook_counter": row.counter,
        **{f"cpu_ms_{k}": v for k, v in zip(("median", "least", "most"), cpu_ms, strict=True)},
        "cpu_time_ms": measured.cpu_time_ms if measured else None,
        "ram_mb": measured.ram_mb if measured else None,
        **{f"gpu_ms_{k}": v for k, v in zip(("median", "least", "most"), gpu_ms, strict=True)},
        "gpu_mb": measured.gpu_mb if measured else None,
        "gpu": measured.gpu if measured else None,
        "measured_on": date.today().isoformat() if measured else None,
    }


def _range(values: tuple[float, float, float]) -> str:
    median, least, most = values
    return f"{median:.0f} ({least:.0f}..{most:.0f})"
