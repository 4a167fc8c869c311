"""One visible person beside a voice from off screen: python benchmarks/one_visible.py MANIFEST ROOT [MODEL] [LIMIT].

Every mixture of the manifest is asked with one face at a time, as if nobody else were in the picture. Printed: SI-SNRi,
and in how many mixtures the answer is closer to the voice of that face than to the other.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from lipsep.checkpoints import load_model
from lipsep.evaluation.cases import open_cases
from lipsep.losses import si_snr
from lipsep.models.base import SeparationModel
from lipsep.separator import DEFAULT_MODEL


def alone(model: SeparationModel, mixture: np.ndarray, lips: np.ndarray) -> torch.Tensor:
    """The voice (T,) of one person: mixture (T,), lips (F, S, S)."""
    shown = torch.zeros((1, model.n_faces, *lips.shape)) if model.faces_at_once else torch.zeros((1, *lips.shape))
    (shown[0, 0] if model.faces_at_once else shown[0]).copy_(torch.from_numpy(lips))
    with torch.inference_mode():
        return model(torch.from_numpy(mixture)[None], shown)[0, 0]


def main() -> None:
    manifest, root = Path(sys.argv[1]), Path(sys.argv[2])
    model = load_model(sys.argv[3] if len(sys.argv) > 3 else DEFAULT_MODEL)
    limit = int(sys.argv[4]) if len(sys.argv) > 4 else None
    gains, own = [], []
    with tempfile.TemporaryDirectory() as folder:
        cases = open_cases(manifest, root, model.lip_recipe, Path(folder), slice(limit))
        for what in cases.preparations():
            cases.prepare(what)
        for index in range(len(cases.names)):
            case = cases.load(index)
            voices, mixture = torch.from_numpy(case.references), torch.from_numpy(case.mixture)
            for k, lips in enumerate(case.lips):
                closeness = si_snr(alone(model, case.mixture, lips).expand_as(voices), voices)
                gains.append(float(closeness[k] - si_snr(mixture, voices[k])))
                own.append(int(closeness.argmax()) == k)
    print(f"{model.name}: {len(gains)} voices, SI-SNRi {np.mean(gains):+.2f} dB, own voice {np.mean(own):.1%}")


if __name__ == "__main__":
    main()
