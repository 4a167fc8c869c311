"""A process that separates files for another program: one line of JSON for each file comes in, events go out.

    in   {"model": null, "device": "cpu", "threads": 1, "weights": [], "memory_bytes": null}     once
    out  {"event": "ready"}                                                      or "failed"
    in   {"source": "a.mp4", "out": "results/a", "options": {"video": "none"}, "max_duration_s": null, "original": null}
    out  {"event": "progress", "step": "faces", "completed": 50, "total": 75}    at most a few a second
    out  {"event": "faces", "people": [{"person": 1, "png": "<base64>", "presence": [[0.0, 2.4]]}]}
    out  {"event": "done", "skipped": false, "report": {...}}                    or "failed", with "kind" and "message"

What a damaged file does to the libraries that read it (a crash, memory without end) ends this process and no other. It
stops by itself when its input ends, which is also how it notices that the program that started it was killed.
"""

from __future__ import annotations

import signal

from lipsep.separation.options import Options

if __name__ == "__main__":  # before anything slow: Ctrl-C in a terminal reaches this process too, and is not for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)

import _thread
import base64
import json
import os
import queue
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

from lipsep.errors import LipsepError, MediaError, plain_reason
from lipsep.services.opening import open_separator
from lipsep.system.environment import Stopped

if TYPE_CHECKING:
    from lipsep.faces.tracks import FaceTrack

PROGRESS_EVERY_S = 0.2
GRACE_S = 30.0  # to tidy up in, after the input has ended


def main() -> None:
    signal.signal(signal.SIGTERM, Stopped.on_signal)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to stderr, not between the events

    def tell(event: str, **content: Any) -> None:
        events.write(json.dumps({"event": event, **content}) + "\n")
        events.flush()

    orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    warnings.simplefilter("ignore")  # they are in the reports
    try:
        settings = orders.get()
        if settings is None:
            return
        memory_bytes = settings.pop("memory_bytes")
        try:
            separator = open_separator(**settings)
            _limit_memory(memory_bytes)
        except Exception as error:
            tell("failed", **_failure(error))
            return
        tell("ready")
        while (order := orders.get()) is not None:
            try:
                _check_duration(order["source"], order["max_duration_s"])
                result = separator(
                    order["source"],
                    order["out"],
                    options=Options.of(**order["options"]),
                    hook=_teller(tell),
                    on_faces=lambda tracks: tell("faces", people=[_portrait(track) for track in tracks]),
                )
                if order["original"]:
                    _write_original(order["source"], order["original"], Options.of(**order["options"]))
            except Exception as error:
                Stopped.check()  # libraries may have made another error of it
                tell("failed", **_failure(error))
            else:
                tell("done", skipped=result.skipped, report=result.report)
    except (Stopped, BrokenPipeError):
        os._exit(1)  # everything temporary is gone; nobody listens any more


def _listen(orders: queue.SimpleQueue) -> None:
    for line in sys.stdin.buffer:
        orders.put(json.loads(line))
    orders.put(None)
    _thread.interrupt_main(signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def _limit_memory(n_bytes: int | None) -> None:
    """What is asked for beyond this, on top of what the model has taken, is refused by the system (Linux)."""
    if n_bytes is None or sys.platform != "linux":
        return
    import resource

    with open("/proc/self/status", encoding="ascii") as status:
        taken = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = taken + n_bytes if hard == resource.RLIM_INFINITY else min(taken + n_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _check_duration(source: str, limit_s: float | None) -> None:
    if limit_s is None:
        return
    from lipsep.media.probing import probe

    info = probe(source)
    if info.duration_s > limit_s:
        raise MediaError(
            f"'{info.name}' lasts {info.duration_s / 60:.1f} minutes; at most {limit_s / 60:.3g} are taken here"
        )


def _write_original(source: str, path: str, options: Options) -> None:
    """The sound as it was, to be compared with the voices."""
    from lipsep.constants import SAMPLE_RATE
    from lipsep.media.writing import WavWriter
    from lipsep.results.run import open_clip

    clip, rate = open_clip(source, options), options.rate
    sample_rate, weights = clip.recorded_form() if rate == "original" else (SAMPLE_RATE, [1])
    with WavWriter(path, sample_rate=sample_rate, n_channels=len(weights)) as wav:
        for block in clip.recorded_audio() if rate == "original" else clip.audio():
            wav.write(block)


def _teller(tell):
    """Passes progress on, not too often."""
    last_s, last_step = 0.0, ""

    def hook(step: str, completed: int, total: int | None) -> None:
        nonlocal last_s, last_step
        Stopped.check()
        if step != last_step or completed == total or time.monotonic() - last_s > PROGRESS_EVERY_S:
            last_s, last_step = time.monotonic(), step
            tell("progress", step=step, completed=completed, total=total)

    return hook


def _portrait(track: FaceTrack) -> dict[str, Any]:
    import cv2  # loaded by now

    from lipsep.results.report import presence_runs

    png = cv2.imencode(".png", track.thumbnail[..., ::-1])[1].tobytes()
    return {
        "person": track.person,
        "png": base64.b64encode(png).decode("ascii"),
        "presence": presence_runs(track.present),
    }


def _failure(error: Exception) -> dict[str, str]:
    reason = plain_reason(error)
    if reason is None:
        return {"kind": "unexpected", "message": " ".join(f"unexpected {type(error).__name__}: {error}".split())}
    kind = type(error).__name__ if isinstance(error, LipsepError) else "LipsepError"
    return {"kind": kind, "message": " ".join(reason.split())}


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)  # the program that asked may send SIGTERM by now, into whatever the interpreter tidies up
