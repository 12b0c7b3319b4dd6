"""Real processes on this machine that are one job, as a user or a cluster starts them."""

import os
import subprocess
import sys

import pytest
from started import flags, free_port


@pytest.fixture
def start(tmp_path):
    """Starts processes of a job; what is left of them at the end is killed."""
    started = []

    def start(count, arguments, told=flags, program=("-m", "rowrnn.cli"), cwd=lambda _: ""):
        port = free_port()
        # Each process has the one device that a process has by itself.
        own = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
        for index in range(count):
            more, env = told(count, index, port)
            started.append(
                subprocess.Popen(
                    [sys.executable, *program, *arguments, *more],
                    cwd=tmp_path / cwd(index),
                    env=own | env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return started[-count:]

    yield start
    for process in started:
        process.kill()
        process.communicate()
