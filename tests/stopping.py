"""Stops at a step: a signal that a run or a sweep receives just then."""

import os
import signal

from rowrnn.lab import loop
from rowrnn.lab.sweep.stack import Stack
from rowrnn.lab.train import Run


def stop_at(monkeypatch, step):
    """Makes every loop receive a SIGTERM when it has reached a step."""
    for job in (Run, Stack):

        def advanced(self, progress, *given, real=job.advanced):
            real(self, progress, *given)
            if progress.step >= step:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(job, "advanced", advanced)
    # Chunks of a step, so that a stop can fall anywhere.
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
