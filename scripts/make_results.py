"""The results pages: every table of the papers, published figures beside ours, made from stored files alone.

    python scripts/make_results.py docs/results        # or: make results

``docs/results/data/<set>/<system>/`` holds what ``lipsep evaluate ... -o`` wrote; ``profile.csv`` and
``profile_2s.csv`` there are the tables of ``lipsep profile -o`` for 1 s and 2 s, ``recipes.csv`` counts networks that
only a recipe names (``scripts/count_recipes.py``); ``make cost`` makes all three anew. A figure that has no stored file
is marked as not run, and why.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lipsep.evaluation.paper_tables import PAPER_NAMES, paper_tables
from lipsep.evaluation.summary import summarise
from lipsep.evaluation.tables import read_rows

PROTOCOLS = {
    "lrs2": "LRS2-2Mix, look2hear protocol: 2 s, 16 kHz, two talkers, one raised and one lowered by 0..5 dB",
    "lrs3": "LRS3-2Mix, look2hear protocol",
    "vox2": "VoxCeleb2-2Mix, look2hear protocol",
    "ntcd_timit": "NTCD-TIMIT, 4 s, two talkers and noise at -5..20 dB",
    "lrs3_wham": "LRS3+WHAM!, 2 s, two talkers and noise",
}
"""Sets of the papers; none of them can be downloaded where lipsep is built."""

OWN_SETS = {
    "vox2_examples": "Six public VoxCeleb2 mixtures of 2 s with the outputs that the authors of each system published "
    "(`--estimates`); one of the two talkers is scored.",
    "grid_unseen_sentences": "GRID talker s1 against himself, sentences never trained on: "
    "`recipes/laptop/unseen_sentences.csv`, 200 mixtures.",
    "grid_unseen_talkers": "GRID talkers s26 and s31, never trained on: `recipes/laptop/unseen_talkers.csv`, "
    "400 mixtures.",
}

HEADINGS = {
    "si_snri": "SI-SNRi dB",
    "sdri": "SDRi dB",
    "si_sdri": "SI-SDRi dB",
    "pesq": "PESQ",
    "estoi": "ESTOI",
    "params_m": "params M",
    "total_params_m": "params M",
    "encoder_params_m": "encoder params M",
    "params_without_video_encoder_m": "params without video M",
    "macs_g": "MACs G",
    "total_macs_g": "MACs G",
    "encoder_macs_g": "encoder MACs G",
    "macs_without_g": "MACs without video G",
    "macs_g_per_2s_sample": "MACs G for 2 s",
    "cpu_ms": "CPU ms",
    "gpu_ms": "GPU ms",
    "gpu_2080ti_s": "GPU s",
    "ram_mb": "RAM MB",
    "gpu_mb": "GPU MB",
}

NO_DATA = "no data"
NOT_RUN = "not run"

LEGEND = (
    "Each cell: published / here. `no data`: the corpus cannot be had where lipsep is built, so nothing is claimed; "
    "`not run`: nothing is stored yet; `-`: not published. Counts here are those of the literature's own programs, "
    "restated (`lipsep profile`), so that they can be compared."
)

DOLPHIN_TABLES = {
    "table1_video_encoders_lrs2": ("Table 1: video encoders in Dolphin", "lrs2"),
    "table2_dp_lipcoder_in_others_lrs2": ("Table 2: DP-LipCoder in other separators", "lrs2"),
    "table5_gla_lrs2": ("Table 5: global and local attention", "lrs2"),
    "table6_hda_lrs2": ("Table 6: heat-diffusion attention", "lrs2"),
    "table7_multispeaker_lrs2": ("Table 7: two, three and four talkers", "lrs2"),
    "table8_iterations_lrs2": ("Table 8: iterations", "lrs2"),
    "table9_gla_allocation_lrs2": ("Table 9: GLA blocks in encoder and decoder", "lrs2"),
    "table10_output_lrs2": ("Table 10: mapping or mask", "lrs2"),
    "table11_fusion_position_lrs2": ("Table 11: where audio and video meet", "lrs2"),
}


SYSTEMS = {
    **dict.fromkeys(("full", "hda", "enc2_dec3", "mapping", "f0", "dp_lipcoder"), "dolphin"),
    "resnet18_3d": "table1_resnet18_3d",
    "autoencoder": "table1_autoencoder",
    "lipcoder": "table1_lipcoder",
    "no_ga_no_la": "table5_no_ga_no_la",
    "one_of_ga_la_row2": "table5_no_la",
    "one_of_ga_la_row3": "table5_no_ga",
    "conv1d": "table6_conv1d",
    "enc1_dec4": "table9_enc1_dec4",
    "enc3_dec2": "table9_enc3_dec2",
    "enc4_dec1": "table9_enc4_dec1",
    "mask": "table10_mask",
    "f1": "table11_f1",
    "f2": "table11_f2",
    "f3": "table11_f3",
}
"""Rows of the ablations -> the recipe whose network they are, or the published model itself."""

WITH_DP_LIPCODER = {
    "ctcnet": "ctcnet_dp_lipcoder",
    "rtfsnet": "rtfsnet_12_dp_lipcoder",
    "iianet": "iianet_dp_lipcoder",
    "av_mossformer2": "av_mossformer2_dp_lipcoder",
}
"""Rows of Table 2 -> the recipe: those of Table 3 with another video encoder, so neither its quality nor its cost."""


COSTS = {
    "params_m": ("params", 1e6),
    "total_params_m": ("params", 1e6),
    "encoder_params_m": ("params", 1e6),
    "params_without_video_encoder_m": ("params_without_video_encoder", 1e6),
    "macs_g": ("hook_macs", 1e9),
    "total_macs_g": ("hook_macs", 1e9),
    "encoder_macs_g": ("hook_macs", 1e9),
    "macs_without_g": ("hook_macs_without_video_encoder", 1e9),
    "macs_g_per_2s_sample": ("hook_macs_without_video_encoder", 1e9),
    "cpu_ms": ("cpu_ms_median", 1.0),
    "gpu_ms": ("gpu_ms_median", 1.0),
    "ram_mb": ("ram_mb", 1.0),
    "gpu_mb": ("gpu_mb", 1.0),
}
"""Published columns -> columns of profiles and their unit; an encoder's are the difference to what is without it."""


class Stored:
    """Evaluations and profiles below a folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.profiles = _read_profiles(data / "profile.csv")
        self.profiles_2s = _read_profiles(data / "profile_2s.csv")
        self.recipes = _read_profiles(data / "recipes.csv")

    def means(self, set_name: str, system: str) -> dict[str, Any] | None:
        table = self.data / set_name / system / "utterances.csv"
        return summarise(read_rows(table)) if table.is_file() else None

    def systems(self, set_name: str) -> list[str]:
        return sorted(path.parent.name for path in self.data.glob(f"{set_name}/*/utterances.csv"))

    def cost(self, system: str, column: str) -> float | None:
        """A cost of a registered model, or of a recipe's, in the unit of the published column."""
        known = self.profiles_2s if column.endswith("_per_2s_sample") else self.recipes | self.profiles
        if (row := known.get(system)) is None:
            return None
        per_second = float(row["seconds"])
        name, unit = COSTS.get(column, ("", 1.0))
        unit *= per_second if name.startswith("hook_macs") and not column.endswith("_per_2s_sample") else 1.0
        if column.startswith("encoder_"):
            return (float(row[name]) - float(row[f"{name}_without_video_encoder"])) / unit
        return float(row[name]) / unit if row.get(name) else None


def _read_profiles(file: Path) -> dict[str, dict[str, str]]:
    """Rows by the name that the tables use."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        return {PAPER_NAMES.get(row["model"], row["model"]): row for row in csv.DictReader(lines)}


def pages(data: Path) -> dict[str, str]:
    """File name -> Markdown."""
    stored = Stored(data)
    return {
        "README.md": _index(stored),
        "own.md": _own(stored),
        "dolphin.md": _dolphin(stored),
        "bin.md": _bin(stored),
        "cost.md": _cost(stored),
    }


def write_pages(folder: Path) -> list[Path]:
    """Write the pages of ``folder/data`` into ``folder``."""
    written = []
    for name, text in pages(folder / "data").items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


# --- Pages -----------------------------------------------------------------------------------------------------------


def _index(stored: Stored) -> str:
    have = [f"- {OWN_SETS[name]} Systems: {', '.join(stored.systems(name)) or NOT_RUN}." for name in OWN_SETS]
    lacking = [f"- {text}" for text in PROTOCOLS.values()]
    return _page(
        "Results",
        "Made by `make results` from the files in [data](data); a test fails when pages and files differ.",
        "- [own.md](own.md): what could be measured here\n- [dolphin.md](dolphin.md): the tables of arXiv 2509.23610\n"
        "- [bin.md](bin.md): the tables of arXiv 2507.07270\n- [cost.md](cost.md): parameters, MACs, latency, memory",
        "## Measured here",
        "\n".join(have),
        "## Could not be run for want of data",
        "\n".join(lacking),
        "With the data on disk: `lipsep evaluate MODEL --data FOLDER -o docs/results/data/lrs2/MODEL`, `make results`.",
    )


def _own(stored: Stored) -> str:
    parts = ["Means over utterances with 95 % bootstrap intervals over mixtures; undefined values are counted."]
    for name, protocol in OWN_SETS.items():
        parts += [f"## {name}", protocol]
        systems = stored.systems(name)
        if not systems:
            parts.append(f"{NOT_RUN} yet")
            continue
        metrics = ("si_snri", "sdri", "pesq", "estoi")
        lines = []
        for system in systems:
            means = stored.means(name, system) or {}
            cells = [_with_interval(means, metric, 3 if metric == "estoi" else 2) for metric in metrics]
            undefined = sum(means[f"{metric}_undefined"] for metric in metrics)
            two_cue = "-" if means["utterances"] == means["mixtures"] else f"{means['two_cue']:.1%}"
            lines.append([system, str(means["utterances"]), *cells, two_cue, str(undefined)])
        heads = ["system", "utterances", *(HEADINGS[metric] for metric in metrics), "two-cue", "undefined"]
        parts.append(_table(heads, lines))
    return _page("What could be measured here", *parts)


def _dolphin(stored: Stored) -> str:
    tables = paper_tables()["dolphin"]
    parts = [LEGEND, "## Table 3: three corpora"]
    columns = tables["table3"]["columns"]
    lines = []
    for system, row in _rows(tables["table3"]):
        cells = []
        for column, value in zip(columns, row, strict=True):
            set_name, _, metric = column.partition("_")
            cells.append(_cell(value, _quality(stored, set_name, system, metric)))
        lines.append([system, *cells])
    names = {"lrs2": "LRS2", "lrs3": "LRS3", "vox2": "Vox2"}
    heads = [f"{names[c.partition('_')[0]]} {HEADINGS[c.partition('_')[2]]}" for c in columns]
    parts += ["; ".join(PROTOCOLS[name] for name in names) + ".", _table(["system", *heads], lines)]
    for key, (title, set_name) in DOLPHIN_TABLES.items():
        rows = WITH_DP_LIPCODER if key.startswith("table2") else SYSTEMS
        parts += [f"## {title}", f"{PROTOCOLS[set_name]}.", _plain(stored, tables[key], set_name, rows)]
    zoo, mos = tables["model_zoo_vox2"], tables["press_mos"]
    vox2 = dict(zip(columns, tables["table3"]["dolphin"], strict=True))
    parts += [
        "[Table 4 is in cost.md](cost.md).",
        "## Figures outside the paper that contradict it, or stand alone",
        f"The authors' Model Zoo gives the released weights, trained on VoxCeleb2, {zoo['si_snri']:g} dB SI-SNRi and "
        f"PESQ {zoo['pesq']:g}; Table 3 has {vox2['vox2_si_snri']:g} dB and {vox2['vox2_pesq']:g} for Dolphin on "
        "VoxCeleb2. Neither says on which mixtures the other was measured, and the weights could not be had here: "
        "which holds is open. What the authors' outputs of six public examples gain is in [own.md](own.md).",
        f"Their press text reports listeners' scores (MOS) of {mos['dolphin']:g} for Dolphin against "
        f"{mos['comparison']:g}; the paper has no listening test, and the figures name neither the other system nor "
        "how many listened. Nothing of it was measured here.",
    ]
    return _page("Dolphin's tables (arXiv 2509.23610)", *parts)


def _bin(stored: Stored) -> str:
    tables = paper_tables()["bin"]
    parts = [LEGEND]
    for set_name in ("ntcd_timit", "lrs3_wham"):
        table = {"columns": tables["table1"]["columns"][:3], **_first(tables["table1"][set_name], 3)}
        parts += [f"## Table 1: {PROTOCOLS[set_name]}", _plain(stored, table, set_name)]
    parts += [
        "## Table 3: ablations",
        f"{PROTOCOLS['lrs3_wham']}.",
        _plain(stored, tables["table3_ablation_lrs3_wham"], "lrs3_wham", {"full": "bin_12"}),
        "[Table 2 is in cost.md](cost.md). Training hours and memory of Table 1 were not measured.",
    ]
    return _page("BIN's tables (arXiv 2507.07270)", *parts)


def _cost(stored: Stored) -> str:
    tables = paper_tables()
    ours = [
        [
            row["model"],
            row["faces"],
            _number(float(row["params"]) / 1e6),
            _per_second(row, "macs"),
            _per_second(row, "hook_macs"),
            _measured(row["cpu_time_ms"]),
            _measured(row["gpu_ms_median"]),
        ]
        for row in stored.profiles.values()
    ]
    days = sorted({row["measured_on"] for row in stored.profiles.values() if row["measured_on"]})
    heads = ["model", "faces per pass", "params M", "MACs G/s executed", "MACs G/s as counted", "CPU time ms", "GPU ms"]
    return _page(
        "Parameters, multiply-accumulates, latency, memory",
        LEGEND,
        "## Table 4 of Dolphin: 1 s of audio",
        "Published latencies are those of the authors' machines, ours of the one that wrote `data/profile.csv`, one "
        "thread. The published RAM equals the parameters' bytes; ours is the growth of the resident peak. Times and "
        f"memory were measured on {' and '.join(days) or NOT_RUN}; README.md and docs/performance.md say what became "
        "faster since. `make cost` measures everything on this page again.",
        _plain(stored, tables["dolphin"]["table4_efficiency_1s"], None),
        "## Table 2 of BIN: 2 s of audio, without the video encoder",
        "Its IIANet, AVLIT and RTFS-Net have other sizes than those registered here.",
        _plain(stored, tables["bin"]["table2_complexity_2s"], None, {"iianet": "", "avlit": "", "rtfsnet": ""}),
        "## Every registered model",
        "Executed: what lipsep runs, transforms included. As counted: what ptflops (thop for BIN) would have said of "
        "the published code.",
        _table(heads, ours) if ours else NOT_RUN,
    )


# --- Cells -----------------------------------------------------------------------------------------------------------


def _plain(
    stored: Stored, table: dict[str, Any], set_name: str | None, registered: dict[str, str] | None = None
) -> str:
    """A table as published, ours beside; `registered` says which of our models a row is, where its name does not."""
    lines = []
    for title, row in _rows(table):
        system, cells = (registered or {}).get(title, title), []
        for column, value in zip(table["columns"], row, strict=True):
            talkers, _, metric = column.partition("_")
            if talkers in ("2mix", "3mix", "4mix"):
                name = set_name if talkers == "2mix" else f"{set_name}_{talkers}"
                cells.append(_cell(value, _quality(stored, name, system, metric)))
            elif column in ("si_snri", "sdri", "si_sdri", "pesq", "estoi"):
                cells.append(_cell(value, _quality(stored, set_name, system, column)))
            else:
                here = stored.cost(system, column)
                cells.append(_cell(value, NOT_RUN if here is None else _number(here)))
        lines.append([title, *cells])
    heads = []
    for column in table["columns"]:
        talkers, _, metric = column.partition("_")
        heads.append(f"{talkers[0]} talkers {HEADINGS[metric]}" if talkers.endswith("mix") else HEADINGS[column])
    return _table(["system", *heads], lines)


def _quality(stored: Stored, set_name: str, system: str, metric: str) -> str:
    means = stored.means(set_name, system)
    if means is None:
        return NO_DATA
    value = means["si_snri" if metric == "si_sdri" else metric]
    return "undefined" if math.isnan(value) else _number(value, 3 if metric == "estoi" else 2)


def _rows(table: dict[str, Any]) -> Iterable[tuple[str, list[Any]]]:
    return ((name, row) for name, row in table.items() if isinstance(row, list) and name != "columns")


def _first(table: dict[str, list[Any]], n_columns: int) -> dict[str, list[Any]]:
    return {name: row[:n_columns] for name, row in table.items()}


def _cell(theirs: float | None, here: str) -> str:
    return f"{'-' if theirs is None else f'{theirs:g}'} / {here}"


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}"


def _measured(cell: str) -> str:
    return _number(float(cell), 0) if cell else NOT_RUN


def _per_second(row: dict[str, str], name: str) -> str:
    return _number(float(row[name]) / float(row["seconds"]) / 1e9)


def _with_interval(means: dict[str, Any], metric: str, digits: int) -> str:
    low, high = means["ci95"][metric]
    return f"{means[metric]:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *parts]) + "\n"


if __name__ == "__main__":
    for path in write_pages(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/results")):
        print(path)
