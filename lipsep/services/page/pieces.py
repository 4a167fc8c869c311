"""The pieces of the page that change: progress, the faces, the player. Everything from outside is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from lipsep.constants import STEP_NAMES
from lipsep.errors import without_flags

STEPS = ("read", "faces", "lips", "separate", "write")


def progress_html(step: str, completed: int, total: int | None) -> str:
    """One bar for the step that runs; those before it are done."""
    done = [STEP_NAMES[name] for name in STEPS[: STEPS.index(step)]] if step in STEPS else []
    value = f'value="{completed}" max="{total}"' if total else ""
    before = f"<small>done: {', '.join(done)}</small>" if done else ""
    return f'<p class="lipsep-progress">{STEP_NAMES.get(step, escape(step))} <progress {value}></progress> {before}</p>'


def failure_html(message: str) -> str:
    """One sentence instead of a result."""
    return f'<p class="lipsep-failure" role="alert">{escape(without_flags(message))}</p>'


def people_html(people: Sequence[dict[str, Any]]) -> str:
    """Faces with names to edit; `people` as in `lipsep.services.process.OnFaces`."""
    figures = [
        f'<figure><img alt="person {p["person"]}" src="data:image/png;base64,{p["png"]}"><figcaption>'
        f'<input class="lipsep-name" data-person="{p["person"]}" placeholder="person {p["person"]}" '
        f'aria-label="name of person {p["person"]}" maxlength="60"></figcaption></figure>'
        for p in people
    ]
    return f'<div class="lipsep-people">{"".join(figures)}</div>'


def player_html(key: str, report: dict[str, Any]) -> str:
    """Picture, a row per voice to choose, to see and to take away, and the overview; `report` as in report.json."""
    base, duration_s = f"results/{key}", report["input"]["duration_s"]
    people = {track["person"]: track for track in report["tracks"]}
    voices = {"original": None, **{f"speaker_{n}": n for n in people}, "residual": None}
    audio = "".join(
        f'<audio data-voice="{v}" src="{base}/{v}.wav" preload="auto"{"" if v == "original" else " muted"}></audio>'
        for v in voices
    )
    rows = "".join(_row(base, voice, people.get(n), duration_s) for voice, n in voices.items())
    pictures = [name for name in report["files"] if name.endswith(".mp4")]
    picture = f"{base}/{pictures[0]}" if pictures else f"{base}/original.wav"
    notes = "".join(f"<li>{escape(warning)}</li>" for warning in report["warnings"])
    return (
        f'<div class="lipsep-player" data-heard="original"><video controls muted playsinline src="{picture}"></video>'
        f"{audio}<table>{rows}</table>"
        f'<p><a data-kind="zip" download="lipsep.zip" href="{base}/everything.zip">everything as one file (zip)</a></p>'
        f"<ul>{notes}</ul>"
        f'<img class="lipsep-overview" alt="spectrograms of all voices, and who is visible when" '
        f'src="{base}/overview.png"></div>'
    )


def _row(base: str, voice: str, track: dict[str, Any] | None, duration_s: float) -> str:
    """Choose, see when the person is visible, download."""
    links, presence, name = f'<a download href="{base}/{voice}.wav">WAV</a>', "", {"residual": "everything else"}
    label = name.get(voice, voice)
    if track is not None:
        n = track["person"]
        label = f'<span data-named="{n}">person {n}</span>'
        spans = "".join(
            f'<i style="left:{100 * a / duration_s:.2f}%;width:{100 * (b - a) / duration_s:.2f}%"></i>'
            for a, b in track["presence"]
        )
        spans += "".join(
            f'<b style="left:{100 * a / duration_s:.2f}%;width:{100 * (b - a) / duration_s:.2f}%"></b>'
            for a, b in track.get("speech", ())
        )
        presence = f'<div class="lipsep-presence" title="light: visible; dark: speaks; click to go there">{spans}</div>'
        kinds = [name.rsplit(".", 1)[1] for name in track["files"] if not name.startswith("artifacts/")]
        links = " ".join(
            f'<a data-person="{n}" data-kind="{kind}" download="speaker_{n}.{kind}" href="{base}/{voice}.{kind}">'
            f"{kind.upper()}</a>"
            for kind in sorted(kinds, reverse=True)
        )
    checked = " checked" if voice == "original" else ""
    return (
        f'<tr><td><label><input type="radio" name="lipsep-heard" value="{voice}"{checked}> {label}</label></td>'
        f"<td>{presence}</td><td>{links}</td></tr>"
    )
