"""The flags with which XLA compiles soonest, for processes too that tests start."""

import jax

FLAGS = "--xla_backend_optimization_level=0"
# The older way to a loop takes half the time of the newer one; from jax 0.11 on XLA has only that.
if jax.__version_info__ < (0, 11):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
