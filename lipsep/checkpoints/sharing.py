"""Weights leave this machine: a folder in the hub's layout with a model card that the checkpoint itself wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lipsep.checkpoints.folder import save_model
from lipsep.checkpoints.hub import HUB_ID, hub_failure
from lipsep.errors import WeightsError
from lipsep.models import SeparationModel
from lipsep.system.outputs import whole_file

CARD = "README.md"
# what checkpoints call a licence, in lower case with blanks for dashes -> the hub's key for it
HUB_LICENCES = {"cc by 4.0": "cc-by-4.0", "cc0 1.0": "cc0-1.0", "apache 2.0": "apache-2.0", "mit": "mit"}
NOT_STATED = "not stated"


def write_hub_folder(model: SeparationModel, folder: str | os.PathLike, name: str) -> Path:
    """Write config.json, model.safetensors and a model card, as `load_model` and the hub read them.

    Args:
        model: with weights; what its checkpoint said of itself (`model.metadata`) goes along and fills the card.
        name: of the repository, for the card's examples: "owner/name".

    Raises:
        WeightsError: the weights state no licence or no provenance: nobody could tell what they may be used for.
    """
    if missing := [key for key in ("licence", "provenance") if model.metadata.get(key, NOT_STATED) == NOT_STATED]:
        raise WeightsError(
            f"these weights of '{model.name}' do not state their {' and '.join(missing)}: save them with "
            "lipsep.checkpoints.folder.save_model(model, folder, {'licence': ..., 'provenance': ...}) first"
        )
    save_model(model, folder, model.metadata)
    with whole_file(Path(folder) / CARD) as part:
        part.write_text(model_card(model, name), encoding="utf-8")
    return Path(folder)


def push_to_hub(
    model: SeparationModel,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Create the repository `name` on the Hugging Face hub where it is not there yet, and upload weights and card.

    Args:
        name: "owner/name".
        private: of a repository that is created.
        revision: the branch; None: main.
        token: None takes the one of `huggingface-cli login` or of HF_TOKEN.

    Returns:
        The address of the commit.

    Raises:
        WeightsError: see `write_hub_folder`; a name that is none; or the hub refuses, with its reason.
    """
    if not HUB_ID.fullmatch(name):
        raise WeightsError(f"'{name}' is no name on the hub: it must be owner/name")
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory(prefix="lipsep-") as folder:
        write_hub_folder(model, folder, name)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(name, branch=revision, exist_ok=True)
            message = f"{model.name}, written by lipsep"
            commit = api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message=message)
        except Exception as error:  # the hub and its network layers raise many kinds
            raise WeightsError(f"cannot upload to '{name}': {hub_failure(error)}") from error
    return str(commit.commit_url)


def model_card(model: SeparationModel, name: str) -> str:
    """The card in Markdown, with the fields that the hub reads at its head."""
    said = model.metadata
    key = HUB_LICENCES.get(str(said["licence"]).lower().replace("-", " "))
    licence = f"license: {key}" if key else f"license: other\nlicense_name: {_quoted(said['licence'])}"
    facts = {
        "network": f"`{model.name}`, {model.n_parameters:,} parameters",
        "input": f"16 kHz mono; lips at 25 fps by recipe `{model.lip_recipe}`; {_faces(model)}",
        "levels": "as in the mixture" if model.keeps_level else "of the model's own; fitted to the mixture afterwards",
        "licence of the weights": said["licence"],
        "trained on": said["provenance"],
        "teacher of the video encoder": said.get("teacher", NOT_STATED),
    }
    if recipe := said.get("recipe"):
        facts["training"] = f"`lipsep pretrain` where the recipe has such a part, then `lipsep train` on `{recipe}`"
    return f"""---
library_name: lipsep
{licence}
pipeline_tag: audio-to-audio
tags:
- audio-visual
- speech-separation
- target-speaker-extraction
---

# {name.rpartition("/")[2]}

Audio-visual speech separation: one voice for every person who is visible in a video.

{_table(("", ""), facts)}
{_figures(said.get("validation"))}
## Use

    lipsep separate interview.mp4 --model {name}

```python
from lipsep import Separator

voices = Separator.from_pretrained("{name}")("interview.mp4").voices  # (people, T) at 16 kHz
```

This card was written by lipsep from what the checkpoint says of itself (`config.json`).
"""


def _faces(model: SeparationModel) -> str:
    return "one face at a time" if model.n_faces == 1 else f"{model.n_faces} faces at once"


def _figures(validation: Mapping[str, float] | None) -> str:
    if not validation:
        return "\nNo figures were stored with these weights.\n"
    heads = ("on the validation mixtures of the training", "")
    return f"\n## Figures\n\n{_table(heads, validation)}"


def _table(heads: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {heads[0]} | {heads[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines) + "\n"


def _quoted(text: Any) -> str:
    return '"' + str(text).replace('"', "'") + '"'
