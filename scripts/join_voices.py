"""Make a `voices_first` checkpoint of the two networks that were taught apart.

    python scripts/join_voices.py runs/voices_first_voices/model runs/dolphin_laptop_together/model OUT

The first gives the separator, kept in 16 bits (half the file; it was trained in bfloat16), the second the follower.
What is heard is the mean of the two: nothing is left to learn. OUT is a folder in the hub's layout.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lipsep.checkpoints.folder import load_model, save_model
from lipsep.models.voices_first import VoicesFirst


def main(voices: str, follower: str, out: Path) -> None:
    model, following = load_model(voices), load_model(follower)
    if not isinstance(model, VoicesFirst):
        raise SystemExit(f"'{voices}' holds a {model.name}: lipsep pretrain recipes/laptop/voices_first.yaml makes it")
    model.follower.load_state_dict(following.state_dict())
    kept = ("licence", "provenance", "validation", "recipe")
    save_model(model, out, {"keeps_level": True, **{key: model.metadata[key] for key in kept if key in model.metadata}})
    file = out / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    weights = {key: w.half() if key.startswith("separator.") else w for key, w in load_file(file).items()}
    save_file(weights, file, metadata=metadata)
    load_model(str(out))  # it loads


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
