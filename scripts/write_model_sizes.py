"""Write lipsep/assets/models.json: what `lipsep models` says of each registered model, so that it need not build them.

python scripts/write_model_sizes.py
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lipsep.models import create_model, list_models
from lipsep.system.outputs import whole_file

ASSET = Path(__file__).resolve().parents[1] / "lipsep" / "assets" / "models.json"


def size_of(name: str) -> dict[str, object]:
    """Parameters and lip recipe of a registered model; nothing is computed."""
    with torch.device("meta"):
        model = create_model(name)
    return {"parameters": sum(p.numel() for p in model.parameters()), "lip_recipe": model.lip_recipe}


if __name__ == "__main__":
    with whole_file(ASSET) as part:
        part.write_text(json.dumps({name: size_of(name) for name in list_models()}, indent=1) + "\n", encoding="utf-8")
