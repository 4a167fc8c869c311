"""The grids on which everything meets: 16 kHz audio, 25 fps video, 640 samples per video frame."""

from collections.abc import Callable

SAMPLE_RATE = 16_000  # Hz, mono
FPS = 25  # video frames per second
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # 640


STEP_NAMES = {
    "read": "reading the sound",
    "faces": "finding faces",
    "lips": "reading lips",
    "mixtures": "scoring mixtures",
    "separate": "separating voices",
    "write": "writing results",
    "transcribe": "writing down speech",
    "download": "downloading",
}

Hook = Callable[[str, int, "int | None"], None]
"""How work in progress is told: `hook(step, completed, total)`; total None: not known."""
