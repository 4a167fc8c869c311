"""A long file on one core: python benchmarks/long_run.py [HOURS] [MODEL]; three hours by default.

The bundled clip of two people is repeated, its packets copied, until the file is long enough; `lipsep separate` then
runs on it with one thread. Printed are the memory of that process and its processor time, minute by minute, and what it
took in all. Memory must not grow with the length: the most of the second half is compared with the most of the first.
Resident memory counts pages of temporary files too, which the system drops when it wants; the process's own does not.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av

CLIP = Path(__file__).parents[1] / "lipsep" / "assets" / "demo.mp4"
LOOK_EVERY_S, TELL_EVERY_S = 1.0, 60.0


def main() -> None:
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    model = sys.argv[2:3] and ["--model", sys.argv[2]]
    with tempfile.TemporaryDirectory(prefix="lipsep-long-") as folder:
        source = Path(folder) / "long.mp4"
        seconds = repeat(CLIP, source, hours * 3600)
        print(f"{seconds / 3600:.3f} hours, {source.stat().st_size / 2**20:.0f} MiB", flush=True)
        arguments = [str(source), "-o", str(Path(folder) / "out"), "--device", "cpu", "--threads", "1", *model]
        watch([sys.executable, "-m", "lipsep.cli", "separate", *arguments], seconds)


def repeat(clip: Path, path: Path, seconds: float) -> float:
    """A long file from a short one, whose longer track is cut; returns its length in s."""
    with av.open(str(clip)) as once, av.open(str(path), "w") as out:
        length_s = min(float(s.duration * s.time_base) for s in once.streams)
        copies = {s.index: out.add_stream_from_template(s) for s in once.streams}
        n_times, last = max(1, round(seconds / length_s)), {}
        for k in range(n_times):
            with av.open(str(clip)) as again:
                for packet in again.demux():
                    if packet.dts is None or float(packet.pts * packet.time_base) >= length_s:
                        continue
                    shift, index = round(k * length_s / packet.time_base), packet.stream.index
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    if packet.dts > last.get(index, packet.dts - 1):  # what the codec needs to swing in would go back
                        last[index], packet.stream = packet.dts, copies[index]
                        out.mux(packet)
    return n_times * length_s


def watch(command: list[str], seconds: float) -> None:
    """Run it, and tell what it takes."""
    start_s = told_s = time.monotonic()
    process = subprocess.Popen(command)
    resident_mib: list[float] = []
    own_mib: list[float] = []
    cpu_s = 0.0
    while process.poll() is None:
        time.sleep(LOOK_EVERY_S)
        status = Path(f"/proc/{process.pid}/status")
        lines = [line.split() for line in status.read_text().splitlines()] if status.exists() else []
        held_mib = {line[0]: int(line[1]) / 2**10 for line in lines if line and line[0] in ("VmRSS:", "RssAnon:")}
        if not held_mib:
            continue
        resident_mib.append(held_mib["VmRSS:"])
        own_mib.append(held_mib["RssAnon:"])
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / 100  # ticks of user and system time
        if time.monotonic() - told_s >= TELL_EVERY_S:
            told_s = time.monotonic()
            memory = f"{resident_mib[-1]:5.0f} MiB resident, {own_mib[-1]:5.0f} MiB its own"
            print(f"{told_s - start_s:6.0f} s: {memory}, {cpu_s:6.0f} s of processor time", flush=True)
    wall_s, half = time.monotonic() - start_s, len(own_mib) // 2
    print(
        f"exit code {process.returncode}; {wall_s:.0f} s, {cpu_s:.0f} s of processor time for {seconds:.0f} s of video"
    )
    for name, held in (("resident", resident_mib), ("its own", own_mib)):
        first, second = max(held[:half]), max(held[half:])
        print(f"most memory, {name}: {first:.0f} MiB in the first half, {second:.0f} in the second")


if __name__ == "__main__":
    main()
