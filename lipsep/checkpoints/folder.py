"""Names to weights: a checkpoint is a folder with `config.json` and `model.safetensors` that describes itself.

    {"lipsep": 1, "model": "dolphin_laptop", "config": {...}, "lip_recipe": "mesh_32", "keeps_level": true,
     "licence": "...", "provenance": "...", ...}

`config` holds every size, so that no other configuration can disagree with the weights. Folders in the layout of the
released weights (their key names, no "lipsep" entry) load too. Loading is strict: every key must be there, known, of
the right shape and finite. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lipsep.checkpoints import catalogue
from lipsep.checkpoints.card import check_weights, described_model
from lipsep.checkpoints.catalogue import CONFIG, DOLPHIN, PICKLES, WEIGHTS, available_weights, read_card
from lipsep.checkpoints.hub import HUB_ID, from_hub
from lipsep.constants import FPS
from lipsep.errors import WeightsError
from lipsep.models import SeparationModel, list_models
from lipsep.models.keys.dolphin import is_released
from lipsep.models.released import list_released, released_model
from lipsep.onnx.runtime import SUFFIX, OnnxModel
from lipsep.system.outputs import whole_file

FORMAT = 1


def load_model(
    name_or_folder: str | os.PathLike,
    map_location: str | torch.device = "cpu",
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
) -> SeparationModel:
    """A model with its weights, in evaluation mode.

    Args:
        name_or_folder: packaged weights ("voices_first"; see `available_weights`), a folder in the hub's
            layout, a hub id ("JusperLee/Dolphin"), which is downloaded on first use and found in the hub's cache from
            then on, or a graph that `lipsep export` wrote ("model.onnx"), for the processor alone.
        map_location: where the model goes.
        revision, cache_dir, token: of a hub id alone, see `checkpoints.hub.from_hub`.

    Raises:
        WeightsError: nothing goes by that name, or the weights are missing, damaged, unsafe or another model's.
        ModelError: the checkpoint names a model that this version does not know.
    """
    name = os.fspath(name_or_folder)
    if revision is not None and (os.path.isdir(name) or not HUB_ID.fullmatch(name)):
        raise WeightsError(f"'{name}' is no hub id, so it has no revision '{revision}': leave the revision out")
    if name.endswith(SUFFIX):
        return OnnxModel(Path(name)).to(map_location).eval()
    if os.path.isdir(name):
        folder = Path(name)
    elif (catalogue.PACKAGED / name / CONFIG).is_file():
        folder = catalogue.PACKAGED / name
    elif HUB_ID.fullmatch(name):
        folder = from_hub(name, revision, cache_dir, token)
    else:
        raise WeightsError(_unknown(name))
    return _load_folder(folder).to(map_location).eval()


def load_released(
    name: str, files: Sequence[str | os.PathLike], map_location: str | torch.device = "cpu"
) -> SeparationModel:
    """The model `name` with weights that its authors released, in evaluation mode.

    Args:
        name: a registered model ("ctcnet"), or one that says what weights do not ("avlit_8_fusion_0").
        files: safetensors or torch files, which together hold all its weights: some authors release the separator and
            the video encoder apart. Nothing is unpickled but plain tensors.
        map_location: where the model goes.

    Raises:
        WeightsError: a file is missing, damaged, unsafe or another model's; the message names the key that misfits.
        ModelError: no model has this name.
    """
    model = released_model(name, [_read_file(Path(file)) for file in files])
    names = ", ".join(Path(file).name for file in files)
    check_weights(model.state_dict(), model, Path(names))
    model.metadata = {"licence": "as the authors state", "provenance": f"released by the authors of {name}: {names}"}
    return model.to(map_location).eval()


def save_model(model: SeparationModel, folder: str | os.PathLike, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a self-describing checkpoint that `load_model(folder)` reads.

    Args:
        metadata: goes into config.json. "keeps_level" and "lip_recipe" replace the model's own; "licence" and
            "provenance" are what `available_weights` reports; anything else that JSON can hold is kept as it is.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "lipsep": FORMAT,
        "model": model.name,
        "config": dataclasses.asdict(model.config),
        "lip_recipe": model.lip_recipe,
        "keeps_level": model.keeps_level,
        "sample_rate": model.sample_rate,
        "fps": FPS,
        **(metadata or {}),
    }
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with whole_file(folder / WEIGHTS) as part:
        safetensors.torch.save_file(tensors, part)
    with whole_file(folder / CONFIG) as part:
        part.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _load_folder(folder: Path) -> SeparationModel:
    card = read_card(folder)
    state = _read_weights(folder)
    if "lipsep" in card:
        model = described_model(card, state, folder)
    elif is_released(set(state)):
        model = released_model("dolphin", [state])
        model.metadata = {"licence": DOLPHIN.licence, "provenance": DOLPHIN.provenance, "teacher": "av_hubert"}
        state = model.state_dict()
    else:
        raise WeightsError(
            f"'{folder / CONFIG}' has no \"lipsep\" entry and the weights are not those of the released Dolphin: "
            "save checkpoints with lipsep.checkpoints.folder.save_model"
        )
    check_weights(state, model, folder)
    model.load_state_dict(state)
    return model


def _read_weights(folder: Path) -> dict[str, Tensor]:
    for path in (folder / name for name in (WEIGHTS, *PICKLES)):
        if path.is_file():
            return _read_file(path)
    raise WeightsError(f"'{folder}' has no weights: {WEIGHTS} is needed beside {CONFIG}")


def _read_file(path: Path) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or from a torch file that holds plain tensors alone."""
    if not path.is_file():
        raise WeightsError(f"there is no file '{path}' to load weights from")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise WeightsError(f"'{path}' is damaged ({error}): get it again") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for unsafe files
        raise WeightsError(f"'{path}' is damaged, or holds more than plain tensors: {error}") from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        return state
    raise WeightsError(f"'{path}' holds no state dict: a mapping from names to tensors is needed")


def _unknown(name: str) -> str:
    packaged = [entry.name for entry in available_weights()]
    if name in list_models():
        released = "give the files that its authors released with --weights, " if name in list_released() else ""
        return (
            f"'{name}' is a known model, but no weights for it are packaged (there are: {', '.join(packaged)}): "
            f'train it, {released}or use lipsep.create_model("{name}") for fresh ones'
        )
    if os.sep in name or name.startswith("."):
        return f"there is no folder '{name}': give one that holds {CONFIG} and {WEIGHTS}"
    close = difflib.get_close_matches(name, packaged, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are: {', '.join(packaged)}"
    return f"no weights are named '{name}': {hint}"


def weights_digest(model: SeparationModel) -> str:
    """SHA-256 of names and values of all weights: tells one set from another, whatever it is called."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
