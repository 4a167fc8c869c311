"""Train a small Dolphin on talkers made up from a seed, without any download, and load what came out.

python examples/train_a_toy.py [STEPS]        # extra `train`; `make train-toy` is the whole run
"""

from __future__ import annotations

import sys

from lipsep import load_model
from lipsep.training import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
folder = train("toy/dolphin_toy", overrides=["data.synthetic.talkers=4", *sys.argv[2:]], trial_steps=steps)
model = load_model(folder)
print(f"{model.name}, {model.n_parameters:,} parameters, validated at {model.metadata['validation']}: {folder}")
