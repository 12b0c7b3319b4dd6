"""A run at Weights & Biases; the only user of wandb."""

import os
import secrets
from numbers import Real
from typing import Any

# Errors of wandb itself are not told to its makers unless the user says so.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

_EXIT_CODES = {"finished": 0, "stopped": 75, "failed": 1}


class WandbRun:
    """A run of wandb, as the user's WANDB_MODE, WANDB_ENTITY, WANDB_DIR and the like have it.

    Its project is ``rowrnn`` unless WANDB_PROJECT says otherwise.

    Args:
        name: of the run.
        config: its values, by dotted name.
        known: the id of a run to go on with, or "".
    """

    def __init__(self, name: str, config: dict[str, Any], known: str):
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rowrnn"),
            name=name,
            id=known or secrets.token_hex(8),
            resume="allow",
            config=config,
        )
        self.id, self.resumed = self._run.id, bool(known)

    def log(self, entries: list[dict[str, Any]]) -> None:
        """Tells figures on the way."""
        for entry in entries:
            figures = {name: value for name, value in entry.items() if name != "step"}
            self._run.log(figures, step=entry["step"])

    def finish(self, outcome: str, result: dict[str, Any]) -> None:
        """Tells what came out and ends the run; returns when all has arrived."""
        self._run.summary.update(
            {name: value for name, value in result.items() if isinstance(value, Real | str)}
        )
        self._run.finish(exit_code=_EXIT_CODES[outcome])
