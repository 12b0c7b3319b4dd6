"""What a job is told and how it ends."""

import socket
import time

from rowrnn.store import log

# 60 steps of little: 6 saves, 12 entries of the log.
RUN = ("--model.projection-size=0", "--model.hidden-size=8", "--data.validation-size=100",
       "--optimizer.name=adamw", "--optimizer.learning-rate=3e-3", "--train.batch-size=100",
       "--train.examples=6001", "--train.log-every-steps=5", "--checkpoint.every-steps=10",
       "--train.display=none")  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def flags(count, index, port):
    """Said in so many words."""
    return [f"--parallel.coordinator=127.0.0.1:{port}", f"--parallel.processes={count}",
            f"--parallel.process={index}"], {}  # fmt: skip


def slurm(count, index, port):
    """What srun tells each of its processes."""
    return [], {
        "SLURM_JOB_ID": "17", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": str(count),
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index), "JAX_COORDINATOR_PORT": str(port),
    }  # fmt: skip


def open_mpi(count, index, port):
    """What mpirun of Open MPI 4 tells each of its processes."""
    return [], {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": str(count), "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(index), "JAX_COORDINATOR_PORT": str(port),
    }  # fmt: skip


def wait_for_step(path, step):
    """Returns when a run has logged a step."""
    end = time.monotonic() + 120
    while not any(entry["step"] >= step for entry in log.read(path)):
        assert time.monotonic() < end, f"{path} has not come to step {step}"
        time.sleep(0.01)


def ended(process, timeout=120):
    """Exit code, stdout and stderr of a process that ends in time."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err
