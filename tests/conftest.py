"""Every test runs on two CPU devices, with strict shapes; none needs an accelerator."""

import os

# A thread pool larger than the number of devices: XLA on CPU can otherwise wait for ever where
# batched matrix products meet several devices.
os.environ.setdefault("NPROC", "4")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield
