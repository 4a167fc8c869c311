"""Weights on the Hugging Face hub: those known by name, under which licence, and how they come here."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from lipsep.checkpoints.catalogue import CONFIG, DOLPHIN, WEIGHTS
from lipsep.checkpoints.downloads import check_download
from lipsep.errors import WeightsError

_log = logging.getLogger(__name__)
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_NOTICE = f"""Weights of {DOLPHIN.name} (https://huggingface.co/{DOLPHIN.name}), downloaded once, {{size}}.
  Licence: {DOLPHIN.licence}.
  Provenance: {DOLPHIN.provenance}.
  The authors' notice: https://github.com/JusperLee/Dolphin/blob/main/MODEL_PROVENANCE.md"""


def from_hub(
    name: str,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
) -> Path:
    """The folder of a hub repository in the cache, downloaded on first use.

    Args:
        revision: branch, tag or commit; None: main.
        cache_dir: None: the hub's own, see HF_HUB_CACHE.
        token: for private repositories; None takes the one of `huggingface-cli login` or of HF_TOKEN.

    Raises:
        WeightsError: there is no such repository or revision, no network and no copy, or the copy is damaged.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    files = [CONFIG, WEIGHTS]

    def snapshot(local_files_only: bool) -> Path:
        where = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            cache_dir=None if cache_dir is None else str(cache_dir),
            token=token,
            allow_patterns=files,
            local_files_only=local_files_only,
        )
        return Path(str(where))

    shown = name if revision is None else f"{name} at {revision}"
    try:
        cached = snapshot(local_files_only=True)
        if (cached / WEIGHTS).is_file() or huggingface_hub.constants.HF_HUB_OFFLINE:  # else it was interrupted
            return check_download(cached)
    except LocalEntryNotFoundError:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise WeightsError(
                f"'{shown}' is not in the cache {cache_dir or huggingface_hub.constants.HF_HUB_CACHE} and "
                "HF_HUB_OFFLINE is set: run once online, or pass a folder that holds its config.json and "
                "model.safetensors"
            ) from None
    generic = f"Downloading weights of {name} (https://huggingface.co/{name}): look up their licence there."
    notice = _NOTICE.format(size=f"{DOLPHIN.size / 1e6:.0f} MB") if name == DOLPHIN.name else generic
    _log.warning(notice)
    try:
        fetched = snapshot(local_files_only=False)
    except Exception as error:  # the hub and its network layers raise many kinds
        raise WeightsError(
            f"cannot download '{shown}' ({hub_failure(error)}), or pass a folder that holds its config.json and "
            "model.safetensors"
        ) from error
    return check_download(fetched)


def hub_failure(error: Exception) -> str:
    """What the hub or the network said, and what to look at."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{type(error).__name__}: access refused, log in with 'huggingface-cli login' or check the token"
    return f"{type(error).__name__}: check the name and the network"
