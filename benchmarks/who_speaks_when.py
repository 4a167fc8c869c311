"""Diarization error rate of `speech` in report.json, on scripted scenes and on GRID pairs whose truth is known.

    python benchmarks/who_speaks_when.py --grid shared/data/grid_s1 shared/data/grid_unseen -o who_speaks_when.csv

Scripted scenes: the two people of the bundled clip, their voices set in turns, overlapping, with pauses between them.
GRID pairs: two talkers side by side, whole sentences in turns, overlapping, with silences inserted in which the last
picture stays. Truth: where the clean voice is within 35 dB of its loud parts, gaps under 0.4 s closed. The error rate
is pyannote.metrics', with no collar and with 0.25 s on either side, as is customary (Bredin 2017); overlaps count.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from pyannote.core import Annotation, Segment
from pyannote.metrics.diarization import DiarizationErrorRate
from scipy.ndimage import uniform_filter1d

from lipsep import Separator
from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.media.reading import load_audio, read_frames
from lipsep.results.speech import stretches

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from scenes import build_clip, demo_people

TURNS_S = {  # (start, end) of each person's turns
    "in turns": ([(0.0, 2.4), (6.0, 8.4)], [(3.0, 5.4), (9.0, 11.4)]),
    "overlapping": ([(0.0, 2.8), (5.0, 7.8)], [(1.6, 4.4), (6.4, 9.2)]),
    "one is silent": ([(1.0, 3.8), (5.0, 7.8)], []),
}


def truth(voice: np.ndarray) -> list[tuple[float, float]]:
    """Where a clean voice sounds, s."""
    frames = voice[: len(voice) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME)
    level_db = 10 * np.log10(uniform_filter1d(np.square(frames, dtype=np.float64).mean(1), 3) + 1e-12)
    sounds = level_db > np.percentile(level_db, 98) - 35
    for (_, before), (after, _) in zip(stretches(sounds)[:-1], stretches(sounds)[1:], strict=True):
        if after - before < 0.4 * FPS:
            sounds[before:after] = True
    return [(a / FPS, b / FPS) for a, b in stretches(sounds) if b - a >= 3]


def annotation(people: list[list[tuple[float, float]]]) -> Annotation:
    found = Annotation()
    for person, turns in enumerate(people):
        for k, (start_s, end_s) in enumerate(turns):
            found[Segment(start_s, end_s), (person, k)] = str(person)
    return found


def in_turns(voice: np.ndarray, turns_s: list[tuple[float, float]], n_samples: int) -> np.ndarray:
    """A voice that speaks in these turns only, from its beginning each time, float32 (n_samples,)."""
    placed = np.zeros(n_samples, np.float32)
    for start_s, end_s in turns_s:
        first, last = round(start_s * SAMPLE_RATE), min(round(end_s * SAMPLE_RATE), n_samples)
        placed[first:last] = voice[: last - first]
    return placed


def scripted(name: str, folder: Path) -> tuple[Path, list[np.ndarray]]:
    """The bundled people, whose mouths rest while they are silent."""
    n_samples = 12 * SAMPLE_RATE
    people = []
    for person, turns_s in zip(demo_people(), TURNS_S[name], strict=True):
        phones = [
            phone._replace(start_s=phone.start_s + start_s, stop_s=phone.stop_s + start_s)
            for start_s, end_s in turns_s
            for phone in person.phones
            if phone.stop_s <= end_s - start_s
        ]
        people.append(replace(person, voice=in_turns(person.voice, turns_s, n_samples), phones=tuple(phones)))
    clip = build_clip(people, folder / f"{name}.mp4", duration_s=12.0)
    return clip.path, list(clip.voices)


def grid_pair(name: str, left: Path, right: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """(T,) mixture, (F, H, 2 W, 3) pictures, clean voices."""
    n_frames = 12 * FPS
    halves, voices = [], []
    for path, turns_s in zip((left, right), TURNS_S[name], strict=True):
        pictures = [frame.image for frame in read_frames(path)]
        voice = load_audio(path)
        voices.append(in_turns(voice / np.abs(voice).max() / 2, turns_s, n_frames * SAMPLES_PER_FRAME))
        shown = np.zeros(n_frames, int)  # which picture; between turns the last one stays, before the first its first
        for start_s, end_s in turns_s:
            first, last = round(start_s * FPS), min(round(end_s * FPS), n_frames)
            shown[first:last] = np.minimum(np.arange(last - first), len(pictures) - 1)
            shown[last:] = shown[last - 1]
        halves.append(np.stack(pictures)[shown])
    return sum(voices), np.concatenate(halves, axis=2), voices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", nargs=2, type=Path, help="two folders of GRID clips; pairs take one of each")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--model", default=None)
    parser.add_argument("-o", "--out", type=Path, default=Path("who_speaks_when.csv"))
    given = parser.parse_args()
    separate = Separator(given.model) if given.model else Separator()
    rows = []

    def score(kind: str, source, voices: list[np.ndarray]) -> None:
        result = separate(source)
        tracks = result.report["tracks"]
        reference = annotation([truth(v) if v.any() else [] for v in voices])
        found = annotation([[tuple(s) for s in track["speech"]] for track in tracks])
        row = {"scene": kind, "people found": len(tracks)}
        for collar_s in (0.0, 0.5):  # of pyannote.metrics: both sides together
            metric = DiarizationErrorRate(collar=collar_s)
            parts = metric(reference, found, detailed=True)
            row[f"DER, collar {collar_s / 2:g} s"] = round(100 * parts["diarization error rate"], 1)
            if not collar_s:
                shares = ("missed detection", "false alarm", "confusion")
                row |= {share: round(100 * parts[share] / parts["total"], 1) for share in shares}
        rows.append(row)
        print(row, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for name in TURNS_S:
            score(f"scripted, {name}", *scripted(name, Path(folder)))
    if given.grid:
        left, right = (sorted(path for path in folder.iterdir() if path.suffix != ".txt") for folder in given.grid)
        for k in range(given.pairs):
            name = list(TURNS_S)[k % len(TURNS_S)]
            mixture, pictures, voices = grid_pair(name, left[k * 7 % len(left)], right[k * 11 % len(right)])
            score(f"GRID pair {k + 1}, {name}", (mixture, pictures), voices)
    with given.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for key in rows[0]:
        if key.startswith("DER"):
            print(f"{key}: mean {np.mean([row[key] for row in rows]):.1f} %")


if __name__ == "__main__":
    main()
