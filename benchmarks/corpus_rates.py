"""What a core does in a second, and what VoxCeleb2 then costs: python benchmarks/corpus_rates.py FOLDER_OF_CLIPS.

FOLDER_OF_CLIPS holds clips with one talker each (GRID, 3 s); each is repeated to about as long as VoxCeleb2's are.
Printed for one core, one thread: seconds of processor time for each second of video in preparation, in separation with
the default weights and with the full Dolphin (random weights, which take as long), the machine hours of VoxCeleb2 by
it, and what training takes for a mixture.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from long_run import repeat

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.data.corpora.shards import prepare_shards
from lipsep.losses import negative_si_snr
from lipsep.models import create_model
from lipsep.separator import DEFAULT_MODEL, Separator

N_CLIPS, CLIP_S = 5, 9.0
N_SLOW = 1  # clips are enough for what takes long
VOX2_CLIPS, VOX2_HOURS = 1_128_246, 2_442  # Chung, Nagrani and Zisserman 2018, Table 2
N_STEPS, SEGMENT_S = 2, 2
CORES = 16  # of the machine that the hours are told for


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="lipsep-rates-") as folder:
        work = Path(folder)
        (work / "raw").mkdir()
        found = sorted(Path(sys.argv[1]).glob("*.mp4"))[:N_CLIPS]
        sources = [work / "raw" / path.name for path in found]
        seconds = sum(repeat(path, source, CLIP_S) for path, source in zip(found, sources, strict=True))
        print(f"{len(sources)} clips, {seconds:.0f} s; {VOX2_CLIPS / 1e6:.1f} M clips of {VOX2_HOURS} hours\n")
        print(f"| work | s of a core per s of video | VoxCeleb2, core hours | machine hours ({CORES} cores) |")
        print("|---|---|---|---|")
        default, dolphin = Separator(device="cpu"), Separator(create_model("dolphin"), "cpu")
        jobs: dict[str, Callable[[], object]] = {
            "preparation, mouth points": lambda: prepare_shards("folder", work / "raw", work / "points"),
            "preparation, pictures too": lambda: prepare_shards(
                "folder", work / "raw", work / "pictures", with_pictures=True
            ),
            f"separation, {DEFAULT_MODEL}": lambda: _separate(default, sources, work / "default"),
            "separation, full Dolphin": lambda: _separate(dolphin, sources[:N_SLOW], work / "dolphin"),
        }
        for name, do in jobs.items():
            start_s = time.process_time()
            do()
            share = N_SLOW / len(sources) if "Dolphin" in name else 1
            rate = (time.process_time() - start_s) / (seconds * share)
            print(f"| {name} | {rate:.3f} | {rate * VOX2_HOURS:.0f} | {rate * VOX2_HOURS / CORES:.0f} |", flush=True)
        for name in "dolphin_laptop", "dolphin":
            print(f"training {name}: {_training_step_s(name):.2f} s of a core for a mixture of {SEGMENT_S} s")


def _training_step_s(name: str) -> float:
    """Processor seconds for one mixture, forward, backward and Adam, the video encoder trained along; batches of 1."""
    model = create_model(name).train()
    optimizer = torch.optim.Adam(model.parameters())
    mixture = torch.randn(1, SEGMENT_S * SAMPLE_RATE)
    lips = torch.rand(1, SEGMENT_S * FPS, model.config.lip_size, model.config.lip_size)
    start_s = 0.0
    for step in range(1 + N_STEPS):
        if step == 1:  # the first one is slower
            start_s = time.process_time()
        negative_si_snr(model(mixture, lips), mixture[:, None]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - start_s) / N_STEPS


def _separate(separator: Separator, sources: list[Path], out: Path) -> None:
    for source in sources:
        separator(source, out / source.stem, video="none")


if __name__ == "__main__":
    main()
