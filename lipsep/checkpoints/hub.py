"""Weights on the Hugging Face hub: those known by name, under which licence, and how they come here."""

from __future__ import annotations

import sys
from pathlib import Path

from lipsep.checkpoints.catalogue import CONFIG, DOLPHIN, WEIGHTS
from lipsep.checkpoints.downloads import check_download
from lipsep.errors import WeightsError

_NOTICE = f"""Weights of {DOLPHIN.name} (https://huggingface.co/{DOLPHIN.name}), downloaded once, {{size}}.
  Licence: {DOLPHIN.licence}.
  Provenance: {DOLPHIN.provenance}.
  The authors' notice: https://github.com/JusperLee/Dolphin/blob/main/MODEL_PROVENANCE.md"""


def from_hub(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    files = [CONFIG, WEIGHTS]
    try:
        cached = Path(huggingface_hub.snapshot_download(name, allow_patterns=files, local_files_only=True))
        if (cached / WEIGHTS).is_file() or huggingface_hub.constants.HF_HUB_OFFLINE:  # else it was interrupted
            return check_download(cached)
    except LocalEntryNotFoundError:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise WeightsError(
                f"'{name}' is not in the cache {huggingface_hub.constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set: "
                "run once online, or pass a folder that holds its config.json and model.safetensors"
            ) from None
    generic = f"Downloading weights of {name} (https://huggingface.co/{name}): look up their licence there."
    notice = _NOTICE.format(size=f"{DOLPHIN.size / 1e6:.0f} MB") if name == DOLPHIN.name else generic
    print(notice, file=sys.stderr)
    try:
        fetched = Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # the hub and its network layers raise many kinds
        raise WeightsError(
            f"cannot download '{name}' ({type(error).__name__}): check the name and the network, or pass a folder that "
            "holds its config.json and model.safetensors"
        ) from error
    return check_download(fetched)
