"""The pieces of the page that change: progress, the faces, the mixing desk. Everything from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lipsep.constants import STEP_NAMES
from lipsep.errors import without_flags
from lipsep.services.page.pace import Pace, in_words

LEAST_DB, MOST_DB = -30, 6  # of a slider; below the least it is off
DOWNLOADS = {  # by what they are for; those that a run has written are offered
    "The recording": {"original.wav": "sound as recorded (WAV)"},
    "For editors": {"tracks.mp4": "one film, a sound track per person (MP4)", "tracks.mkv": "the same (MKV)"},
    "Who speaks when": {
        "who_speaks_when.rttm": "RTTM",
        "who_speaks_when.txt": "labels for Audacity",
        "who_speaks_when.csv": "table (CSV)",
    },
    "About it": {"overview.png": "overview (PNG)", "report.json": "report (JSON)"},
}


def progress_html(pace: Pace) -> str:
    """One bar for all steps: which one runs, how much is done, how long it will take yet."""
    percent, left_s = int(100 * pace.done), pace.left_s
    left = "" if left_s is None or percent == 100 else f" · about {in_words(left_s)} left"
    return _bar(STEP_NAMES[pace.step], f"{percent} %{left}", f'value="{percent}" max="100"')


def waiting_html(n_before: int) -> str:
    """While other visitors are served."""
    return _bar("waiting", f"{n_before} before you" if n_before else "you are next", "")


def _bar(step: str, beside: str, value: str) -> str:
    return (
        f'<div class="lipsep-progress"><div><strong>{step}</strong><span>{beside}</span></div>'
        f'<progress aria-label="{step}" {value}></progress></div>'
    )


def note_html(message: str) -> str:
    """One sentence that is no failure."""
    return f'<p class="lipsep-note" role="status">{escape(message)}</p>'


def failure_html(message: str) -> str:
    """One sentence instead of a result."""
    return f'<p class="lipsep-failure" role="alert">{escape(without_flags(message))}</p>'


def people_html(people: Sequence[dict[str, Any]]) -> str:
    """Faces with names to edit; `people` as in `lipsep.services.process.OnFaces`."""
    figures = [
        f"<figure>{_face(p['person'], p['png'])}<figcaption>{_name(p['person'])}</figcaption></figure>" for p in people
    ]
    return f'<div class="lipsep-people">{"".join(figures)}</div>'


def player_html(key: str, report: dict[str, Any], faces: Mapping[int, str]) -> str:
    """Picture, mixing desk and what there is to take away.

    Args:
        report: as in report.json.
        faces: PNGs in base64 by number of person.
    """
    base, duration_s = f"results/{key}", report["input"]["duration_s"]
    pictures = [name for name in report["files"] if name.startswith("speaker_") and name.endswith(".mp4")]
    picture = f"{base}/{pictures[0]}" if pictures else f"{base}/original.wav"
    rows = "".join(_person_row(base, track, faces.get(track["person"]), duration_s) for track in report["tracks"])
    notes = "".join(f"<li>{escape(without_flags(warning))}</li>" for warning in report["warnings"])
    return (
        f'<div class="lipsep-player" data-base="{base}">'
        f'<video controls muted playsinline preload="auto" src="{picture}"></video>'
        f'<p class="lipsep-hint">Play the film and move the sliders: you hear the mix at once. '
        f"<b>S</b> is solo, <b>M</b> is mute. Names go onto the files.</p>"
        f'<ol class="lipsep-desk">{rows}{_rest_row(base)}</ol>'
        f'<p class="lipsep-key"><span class="visible"></span> visible <span class="speaks"></span> speaks</p>'
        f'<p class="lipsep-main"><a class="lipsep-button" data-kind="remix" download="remix.wav" '
        f'href="{base}/remix.wav">Download this mix</a>'
        f'<a class="lipsep-button" data-kind="zip" download="lipsep.zip" href="{base}/everything.zip">'
        f"Download everything (zip)</a></p>"
        f"{_downloads(base, {*report['files'], 'report.json', 'original.wav'})}"
        f"{f'<ul class=lipsep-notes>{notes}</ul>' if notes else ''}"
        f'<details class="lipsep-more"><summary>Spectrograms of all voices</summary>'
        f'<img class="lipsep-overview" alt="spectrograms of all voices, and who speaks when" loading="lazy" '
        f'src="{base}/overview.png"></details></div>'
    )


def _person_row(base: str, track: dict[str, Any], face: str | None, duration_s: float) -> str:
    n = track["person"]
    voice = f"speaker_{n}"
    spans = "".join(
        f'<{tag} style="left:{100 * a / duration_s:.2f}%;width:{100 * (b - a) / duration_s:.2f}%"></{tag}>'
        for tag, spoken in (("i", track["presence"]), ("b", track.get("speech", ())))
        for a, b in spoken
    )
    spoken_s = sum(b - a for a, b in track.get("speech", ()))
    kinds = [name.rsplit(".", 1)[1] for name in track["files"] if not name.startswith("artifacts/")]
    links = "".join(
        f'<a data-person="{n}" data-kind="{kind}" download="{voice}.{kind}" href="{base}/{voice}.{kind}">'
        f"{kind.upper()}</a>"
        for kind in sorted(kinds, reverse=True)
    )
    return (
        f'<li data-voice="{voice}">{_face(n, face) if face else ""}{_name(n)}'
        f'<div class="lipsep-presence" title="speaks for {spoken_s:.1f} s; click to go there">{spans}<u></u></div>'
        f'{_fader(f"person {n}")}<div class="lipsep-links">{links}</div></li>'
    )


def _rest_row(base: str) -> str:
    return (
        f'<li data-voice="residual"><span class="lipsep-rest">everything else</span>{_fader("everything else")}'
        f'<div class="lipsep-links"><a download="residual.wav" href="{base}/residual.wav">WAV</a></div></li>'
    )


def _fader(whose: str) -> str:
    return (
        f'<div class="lipsep-fader"><button type="button" data-do="solo" aria-pressed="false" '
        f'aria-label="hear {whose} alone">S</button><button type="button" data-do="mute" aria-pressed="false" '
        f'aria-label="mute {whose}">M</button><input type="range" min="{LEAST_DB - 1}" max="{MOST_DB}" step="1" '
        f'value="0" aria-label="level of {whose} in decibels"><output>0 dB</output></div>'
    )


def _face(person: int, png: str) -> str:
    return f'<img alt="person {person}" src="data:image/png;base64,{png}">'


def _name(person: int) -> str:
    return (
        f'<input class="lipsep-name" data-person="{person}" placeholder="person {person}" '
        f'aria-label="name of person {person}" maxlength="60">'
    )


def _downloads(base: str, there: set[str]) -> str:
    groups = []
    for what, files in DOWNLOADS.items():
        links = "".join(
            f'<a download="{name}" href="{base}/{name}">{label}</a>' for name, label in files.items() if name in there
        )
        groups += [f"<dt>{what}</dt><dd>{links}</dd>"] if links else []
    return f'<dl class="lipsep-downloads">{"".join(groups)}</dl>'
