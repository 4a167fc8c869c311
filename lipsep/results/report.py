"""What a run says about itself: report.json."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.errors import OutputError
from lipsep.kernels import native
from lipsep.media.clip import Clip
from lipsep.results.run import Run
from lipsep.results.voices import SeparatedVoices
from lipsep.separation.device import peak_gpu_memory_mib
from lipsep.system.outputs import finished_report
from lipsep.version import __version__


def presence_runs(present: np.ndarray) -> list[list[float]]:
    """Stretches in which a person is visible: bool (F,) -> [[start_s, end_s], ...], end exclusive."""
    edges = np.flatnonzero(np.diff(np.r_[False, np.asarray(present, bool), False]))  # (2 * n_runs,)
    return [[float(a) / FPS, float(b) / FPS] for a, b in edges.reshape(-1, 2)]


def peak_memory_mib() -> float | None:
    """The most memory that this process has held so far, in MiB; None where the system does not tell (Windows)."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; what getrusage says there includes the program that started this one
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 2**10, 1)
    try:
        import resource
    except ImportError:
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)  # bytes on macOS


def versions() -> dict[str, str]:
    """What took part in the result."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in ("lipsep", "torch", "numpy", "av", "opencv-python-headless"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return {**found, "kernels": native.status()}


def describe_run(run: Run, found: SeparatedVoices, model: dict[str, Any], files: list[str]) -> dict[str, Any]:
    """What report.json says about a run that separated `found`.

    Args:
        model: what is to be said about the model; "device" is one of its entries.
        files: names of the results, relative to their folder.
    """
    clip, duration_s = run.clip, len(found.mixture) / SAMPLE_RATE
    heard_frames = -(-len(found.mixture) // SAMPLES_PER_FRAME)  # pictures after the sound has ended do not count
    total_s = sum(run.seconds.values())
    return {
        "lipsep": __version__,
        "input": {
            "name": clip.name,
            "signature": clip.signature,
            "duration_s": round(duration_s, 3),
            "n_samples": len(found.mixture),
            "n_frames": clip.n_frames,
        },
        "settings": run.settings,
        "model": model,
        "tracks": [
            {
                "person": t.person,
                "name": found.names[t.person],
                "visible_s": round(min(float(t.present[:heard_frames].sum()) / FPS, duration_s), 2),
                "presence": [[a, min(b, round(duration_s, 3))] for a, b in presence_runs(t.present[:heard_frames])],
                "speech": [[each.start_s, each.end_s] for each in found.speech if each.person == t.person],
                "mouth_motion": round(t.mouth_motion, 4),
                "level_dbfs": level,
                "files": [name for name in files if re.match(rf"(artifacts/)?speaker_{t.person}[._]", name)],
            }
            for t, level in zip(found.tracks, found.levels_dbfs(), strict=True)
        ],
        "sync": {
            "sound_later_ms": run.offset.found_ms,
            "confidence": run.offset.confidence,
            "corrected_ms": run.offset.corrected_ms,
        },
        "scale": found.scale,
        "seconds": {**run.seconds, "total": round(total_s, 3)},
        "real_time_factor": round(total_s / duration_s, 4),
        "peak_memory_mib": peak_memory_mib(),
        "peak_gpu_memory_mib": peak_gpu_memory_mib(torch.device(model["device"])),
        "versions": versions(),
        "warnings": run.warnings,
        "files": files,
    }


def finished(out_dir: Path, clip: Clip, settings: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The report of this very job, if it is already done. Raises OutputError where other work would be lost."""
    if clip.path and clip.path.resolve().parent == out_dir.resolve() and is_result_name(clip.path.name):
        raise OutputError(f"'{clip.path}' would be overwritten by its own result: choose another folder")
    if overwrite:
        return None
    earlier = finished_report(out_dir)
    if earlier and (earlier["input"]["signature"], earlier["settings"]) != (clip.signature, settings):
        raise OutputError(
            f"'{out_dir}' holds finished work: '{earlier['input']['name']}' with model {earlier['settings']['model']}, "
            "another input or other settings than now; use --overwrite to replace it or choose another folder"
        )
    return earlier


def is_result_name(name: str) -> bool:
    """Whether a file of this name could be replaced by a result."""
    return bool(
        re.fullmatch(
            r"(speaker_\d+(_.*)?|residual|remix|tracks)\.(wav|flac|mp3|opus|mp4|mov|mkv)|overview\.png|report\.json|"
            r"who_speaks_when\.(rttm|txt|csv)|timeline\.otio",
            name,
        )
    )
