"""A sweep over seeds in three lines of Python.

    python experiments/seed_sweep.py

Shows: the distribution of the test accuracy over 8 seeds of the quickstart, cut to 10 epochs.
Last result: see the table in experiments/results/README.md.
"""

import rowrnn
from rowrnn import config

experiment = config.replace(config.load("experiments/quickstart.toml"), {"train.epochs": 10})
result = rowrnn.sweep(experiment, seeds=range(8))
print(result.accuracy.round(4), result.statistics[""], sep="\n")
