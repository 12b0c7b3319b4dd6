# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of rowrnn
#
# From loading data to a sweep over 16 seeds, in less than five minutes on two cores. A picture is
# read as a person reads a page, row by row: an LSTM takes one row of 28 pixels after the other, and
# what it holds after the last one decides which digit it is.
#
# `experiments/tour.py` is this notebook as a script. With `pip install -e '.[notebook]'`,
# `jupytext --to ipynb --execute experiments/tour.py` makes the notebook anew.

# %%
from pathlib import Path
from tempfile import mkdtemp

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import rowrnn
from rowrnn import config, data

place = Path(mkdtemp(prefix="rowrnn-tour-"))

# %% [markdown]
# ## Data
#
# 5,000 real digits come with the package. They stay bytes until the network reads them.

# %%
dataset = data.load(config.DataConfig())
images = dataset.train.images
print(images.shape, images.dtype, "and", len(dataset.test.labels), "to test on")
plt.imshow(np.hstack(images[:12]), cmap="gray")
plt.axis("off")
plt.show()

# %% [markdown]
# ## One run
#
# A config is a tree of frozen dataclasses: every value has a name, a default and a range, and every
# one of them is also a flag of `rowrnn train`. A run is kept in a directory.

# %%
experiment = config.Config(
    data=config.DataConfig(shift=2),
    optimizer=config.OptimizerConfig("adamw", learning_rate=3e-3, schedule="cosine"),
    train=config.TrainConfig(epochs=12, display="none"),
)
result = rowrnn.train(experiment, place / "run")
print(f"{result.test_accuracy:.4f} of the test images, {result.examples_per_s:,.0f} examples/s")

# %% [markdown]
# ## Watch it read
#
# What does it predict after each row? Here is a test image, and beside it the probability of each
# digit from the first row to the last.

# %%
reading = rowrnn.read(place / "run", 8)
figure, (picture, probability) = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
picture.imshow(reading.image, cmap="gray")
probability.imshow(reading.probabilities, cmap="Greys", aspect="auto")
probability.set(xlabel="digit", ylabel="row", xticks=range(10))
plt.show()
print(reading.words())

# %% [markdown]
# ## The whole training as one function
#
# `make_train` gives a pure function of the seed. `jax.vmap` makes three networks of it at once.

# %%
short = config.replace(experiment, {"train.epochs": 5})
trained = jax.jit(jax.vmap(rowrnn.make_train(short, dataset)))(jnp.arange(3))
print(trained.test.correct / trained.test.count)

# %% [markdown]
# ## Sixteen seeds
#
# One number from one seed is an anecdote. A sweep trains a member for each seed, keeps what is done
# in a ledger, and says how the accuracies are distributed.

# %%
sweep = rowrnn.sweep(short, seeds=range(16), run_dir=place / "sweep")
statistics = sweep.statistics[""]
low, high = statistics.interval
print(f"mean {statistics.mean:.4f}, sd {statistics.sd:.4f}")
print(f"95 % interval {low:.4f} to {high:.4f}: another seed, these images")

# %%
plt.plot(np.sort(sweep.accuracy), np.arange(1, 17), "o")
plt.axvspan(low, high, alpha=0.2)
plt.xlabel("test accuracy")
plt.ylabel("seeds with at most this")
plt.show()

# %% [markdown]
# ## Which is better?
#
# The same seeds with a smaller network, held against the first, seed by seed.

# %%
smaller = config.replace(short, {"model.hidden_size": 32})
rowrnn.sweep(smaller, seeds=range(16), run_dir=place / "smaller")
(pair,) = rowrnn.compare(place / "sweep", place / "smaller").pairs
low, high = pair.comparison.interval
print(f"{pair.verdict}: {pair.comparison.difference:+.4f} ({low:+.4f} to {high:+.4f})")
