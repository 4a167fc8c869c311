"""One visible person beside a voice from off screen: python benchmarks/one_visible.py MANIFEST ROOT [MODEL] [LIMIT].

Every mixture of the manifest is asked with one face at a time, as if nobody else were in the picture. Printed: SI-SNRi,
and in how many mixtures the answer is closer to the voice of that face than to the other.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lipsep.checkpoints.folder import load_model
from lipsep.evaluation.cases import Case, open_cases
from lipsep.evaluation.evaluate import separate_case
from lipsep.losses import si_snr
from lipsep.models.base import SeparationModel
from lipsep.separator import DEFAULT_MODEL


def alone(model: SeparationModel, case: Case, k: int) -> torch.Tensor:
    """The voice (T,) of person k, of whom alone the lips are seen."""
    lips = np.zeros_like(case.lips)
    lips[k] = case.lips[k]
    return torch.from_numpy(separate_case(model, replace(case, lips=lips))[k])


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
            for k in range(len(voices)):
                closeness = si_snr(alone(model, case, k).expand_as(voices), voices)
                gains.append(float(closeness[k] - si_snr(mixture, voices[k])))
                own.append(int(closeness.argmax()) == k)
    print(f"{model.name}: {len(gains)} voices, SI-SNRi {np.mean(gains):+.2f} dB, own voice {np.mean(own):.1%}")


if __name__ == "__main__":
    main()
