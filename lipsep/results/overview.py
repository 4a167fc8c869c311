"""The one picture of a run, and the video with boxes drawn in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.faces.tracks import FaceTrack
from lipsep.lips.pictures import Lips
from lipsep.lips.recipes import MEAN_GREY, STD_GREY
from lipsep.results.report import presence_runs
from lipsep.results.voices import SeparatedVoices

if TYPE_CHECKING:
    from lipsep.faces.tracks import FaceTrack
    from lipsep.media.reading import Frame
    from lipsep.results.voices import SeparatedVoices


N_FFT = 512  # samples, 32 ms
RANGE_DB = 60.0  # what the spectrograms show below the loud parts of the mixture
DPI = 100
TICKS_S = (15, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # between time marks of long recordings
Read = Callable[[int, int], np.ndarray]  # read(start, stop) -> float32 (n,)


def spectrogram(read: Read, n_samples: int, n_columns: int) -> np.ndarray:
    """Power in dB, a fixed number of columns whatever the length: each is the mean of up to four frames spread over it.

    Shape: -> float32 (N_FFT // 2 + 1, <= n_columns), dB relative to a full-scale sine.
    """
    hop = max(N_FFT // 4, -(-n_samples // n_columns))
    window = np.hanning(N_FFT).astype(np.float32)
    columns = []
    for start in range(0, max(n_samples, 1), hop):
        offsets = np.unique(np.linspace(0, max(0, hop - N_FFT), min(4, 1 + hop // N_FFT)).astype(int))
        pieces = [read(start + o, min(start + o + N_FFT, n_samples)) for o in offsets]
        frames = np.stack([np.pad(p, (0, N_FFT - len(p))) for p in pieces])  # (n, N_FFT)
        power = np.abs(np.fft.rfft(frames * window)) ** 2  # (n, N_FFT // 2 + 1)
        columns.append(power.mean(0) / (window.sum() / 2) ** 2)
    return (10 * np.log10(np.stack(columns, axis=1) + 1e-12)).astype(np.float32)


def draw_overview(path: Path, title: str, found: SeparatedVoices) -> None:
    """The one picture of a run: the mixture, then each person with face, presence and voice, then what is left over.

    All spectrograms share one scale, so that a quiet voice looks quiet. The colours fall evenly in lightness and
    print in grey. Bounded in size and memory whatever the length of the sound.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    n_samples = len(found.mixture)
    duration_s = n_samples / SAMPLE_RATE
    rows = [("mixture", None, found.mixture.read)]
    rows += [
        (_printable(found.names[t.person]), t, voice.read) for t, voice in zip(found.tracks, found.voices, strict=True)
    ]
    rows += [("residual", None, found.residual.read)]
    heights = [h for _, track, _ in rows for h in ([1.0, 0.09] if track else [1.0])]
    figure = Figure(figsize=(11, 1.0 + 1.25 * len(rows)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_printable(title), fontsize=11)
    grid = figure.add_gridspec(len(heights), 2, width_ratios=[1, 8.5], height_ratios=heights, hspace=0.02, wspace=0.01)
    loudest, line, axes = None, 0, None
    for name, track, read in rows:
        picture = figure.add_subplot(grid[line : line + (2 if track else 1), 0])
        picture.set_axis_off()
        if track:
            picture.imshow(track.thumbnail)
            picture.set_title(name, fontsize=9, pad=2)
        else:
            picture.text(0.5, 0.5, name, ha="center", va="center", fontsize=9)
        axes = figure.add_subplot(grid[line, 1], sharex=axes)
        power = spectrogram(read, n_samples, n_columns=900)
        loudest = float(np.percentile(power, 99.5)) if loudest is None else loudest  # of the mixture, for every row
        axes.imshow(
            power, origin="lower", aspect="auto", cmap="magma_r", vmin=loudest - RANGE_DB, vmax=loudest,
            extent=(0, duration_s, 0, SAMPLE_RATE / 2000), interpolation="auto",
        )  # fmt: skip
        axes.set_yticks([0, 4, 8])
        axes.tick_params(labelsize=7, labelbottom=False)
        line += 1
        if track:
            axes = figure.add_subplot(grid[line, 1], sharex=axes)
            speech = [(each.start_s, each.end_s - each.start_s) for each in found.speech if each.person == track.person]
            axes.broken_barh([(a, b - a) for a, b in presence_runs(track.present)], (0, 1), color="0.75")
            axes.broken_barh(speech, (0, 1), color="0.15")  # on top of what is visible
            axes.set_facecolor("0.95")
            axes.set_yticks([0.5], ["speaks"], fontsize=7)
            axes.tick_params(axis="x", labelsize=7, labelbottom=False)
            axes.set_ylim(0, 1)
            line += 1
    axes.set_xlim(0, duration_s)
    axes.tick_params(axis="x", labelbottom=True)
    if duration_s > 90:
        axes.xaxis.set_major_locator(MultipleLocator(next((s for s in TICKS_S if duration_s <= 10 * s), TICKS_S[-1])))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{int(s) // 60}:{int(s) % 60:02d}"))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{s:g} s"))
    axes.set_xlabel(
        f"time; frequency in kHz; the darker the louder, {RANGE_DB:.0f} dB, alike in all rows; bars: visible, speaking",
        fontsize=8,
    )
    figure.savefig(path)


def draw_boxes(frames: Iterable[Frame], tracks: Sequence[FaceTrack]) -> Iterator[np.ndarray]:
    """The video with a box and a number on everyone who is visible: Frame -> uint8 (H, W, 3)."""
    for frame in frames:
        image = np.ascontiguousarray(frame.image).copy()
        thick = max(2, image.shape[0] // 240)
        for track in tracks:
            if frame.index >= len(track.present) or not track.present[frame.index]:
                continue
            box = track.boxes[frame.index]
            if not np.isfinite(box).all():
                continue
            x0, y0, x1, y1 = (round(float(v)) for v in box)
            corner = (x0 + thick, max(y0 - 2 * thick, 12 * thick))
            for colour, width in ((0, 0, 0), 3 * thick), ((255, 255, 255), thick):  # white on black: seen on anything
                cv2.rectangle(image, (x0, y0), (x1, y1), colour, width)
                cv2.putText(image, str(track.person), corner, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thick, colour, width)
        yield image


def draw_lips(lips: Lips) -> Iterator[np.ndarray]:
    """The lip pictures that the model saw, black where it saw none: -> uint8 (S, S, 3)."""
    for start in range(0, lips.n_frames, FPS):
        stop = min(start + FPS, lips.n_frames)
        grey = np.clip((lips.read(start, stop) * STD_GREY + MEAN_GREY) * 255, 0, 255)  # (n, S, S)
        for picture, valid in zip(grey.round().astype(np.uint8), lips.valid[start:stop], strict=True):
            yield np.repeat((picture * valid)[..., None], 3, axis=2)


def _printable(text: str) -> str:
    """File names may hold signs that the plot font lacks, or a dollar that would start a formula."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else "?" for c in text).replace("$", r"\$")
