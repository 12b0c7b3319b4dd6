"""One run on some numbers of CPU devices: ``python many_devices.py DTYPE 1,2,8`` says how alike.

A process of its own: how many devices there are is settled before jax starts, and so is x64.
"""

import json
import sys
import tempfile

import jax
import numpy as np

from rowrnn import config as configs
from rowrnn import parallel
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.lab.trainer import Trainer, prepare, stack_members

# At three times this rate training itself makes a rounding error 10,000 times as large in 200
# steps, on one device too.
CONFIG = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", shift=1),
    OptimizerConfig("adamw", 1e-3, clip_norm=1.0),
    TrainConfig(batch_size=96, examples=200 * 96 + 1, display="none"),
)


def compile_run(config):
    """A function that trains for 200 steps, and gives parameters, flat, and predictions."""
    experiment = prepare(config)
    mesh = parallel.make_mesh(config.parallel)
    parallel.check_divides(mesh, config.train.batch_size)
    trainer = Trainer(experiment, mesh)

    def run():
        state = trainer.init(*stack_members([experiment]))
        for first in range(0, experiment.steps, experiment.epoch_steps):
            order = trainer.order(state, first // experiment.epoch_steps)
            state = trainer.run(state, order, min(experiment.epoch_steps, experiment.steps - first))
        _, predicted = trainer.test(state)
        return flat(state.params), np.asarray(predicted[0])

    return run


def flat(params):
    """All parameters, one after the other."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def sweep_on_both_axes():
    """How far the members of a sweep on 2 x 2 devices are from runs of their own on one."""
    import rowrnn
    from rowrnn.lab.sweep import outcome

    config = configs.replace(CONFIG, {"train.examples": 2001})
    with tempfile.TemporaryDirectory() as directory:
        outcome.draw = lambda *_, **__: None
        both = configs.replace(config, {"parallel.seed": 2, "parallel.data": 2})
        settings = rowrnn.SweepSettings(keep="all")
        swept = rowrnn.sweep(both, range(2), settings=settings, run_dir=f"{directory}/sweep")
        found = []
        for seed in range(2):
            alone = configs.replace(config, {"train.seed": seed, "parallel.devices": 1})
            rowrnn.train(alone, f"{directory}/{seed}")
            member = swept.states[f"seed={seed}"].params
            found.append(difference(flat(rowrnn.load(f"{directory}/{seed}").params), flat(member)))
    return found


def difference(left, right):
    """Norm-wise and relative."""
    return float(np.linalg.norm(left - right) / np.linalg.norm(left))


def main():
    dtype = sys.argv[1]
    jax.config.update("jax_enable_x64", dtype == "float64")
    # In float64 only here: a config does not offer it, since nobody trains in it.
    config = configs.replace(CONFIG, {"model.dtype": dtype, "parallel.devices": 8})
    parallel.start(config.parallel)
    counts = tuple(map(int, sys.argv[2].split(",")))
    runs = {
        count: compile_run(configs.replace(config, {"parallel.devices": count})) for count in counts
    }
    results = {count: run() for count, run in runs.items()}
    params, predicted = results[1]
    again, _ = runs[8]()
    found = {
        "dtype": str(params.dtype),
        "differences": [difference(params, results[count][0]) for count in counts[1:]],
        "same_predictions": [float((predicted == results[n][1]).mean()) for n in counts[1:]],
        "same_bits_again": bool((again == results[8][0]).all()),
    }
    if dtype == "float32":
        found["sweep"] = sweep_on_both_axes()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
