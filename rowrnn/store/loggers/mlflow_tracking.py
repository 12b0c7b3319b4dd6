"""A run at MLflow; the only user of mlflow."""

import importlib.util
import os
import time
from numbers import Real
from typing import Any

# MLflow tells its makers how it is used, unless the user says so already.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# It asks for this where runs are kept in files.
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

# Of a value of the config, which the list of a sweep's seeds may exceed.
_LONGEST = 6_000
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflowRun:
    """A run of MLflow, at MLFLOW_TRACKING_URI.

    Without it MLflow's own default, or ``mlruns`` where mlflow-skinny alone is installed. Its
    experiment is ``rowrnn`` unless MLFLOW_EXPERIMENT_NAME says otherwise.

    Args:
        name: of the run.
        config: its values, by dotted name.
        known: the id of a run to go on with, or "". One that is not there any more is made anew.
    """

    def __init__(self, name: str, config: dict[str, Any], known: str):
        has_database = importlib.util.find_spec("sqlalchemy") is not None
        if "MLFLOW_TRACKING_URI" not in os.environ and not has_database:
            mlflow.set_tracking_uri("mlruns")
        self._client = mlflow.MlflowClient()
        self.resumed = bool(known) and self._is_there(known)
        if self.resumed:
            self.id = known
            self._client.update_run(known, status="RUNNING")
            return
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "rowrnn"))
        self.id = self._client.create_run(experiment.experiment_id, run_name=name).info.run_id
        params = [Param(name, str(value)[:_LONGEST]) for name, value in config.items()]
        self._client.log_batch(self.id, params=params)

    def _is_there(self, known: str) -> bool:
        try:
            return self._client.get_run(known).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def log(self, entries: list[dict[str, Any]]) -> None:
        """Tells figures on the way."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, entry["step"])
            for entry in entries
            for name, value in entry.items()
            if name != "step"
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def finish(self, outcome: str, result: dict[str, Any]) -> None:
        """Tells what came out and ends the run."""
        now, step = int(time.time() * 1000), result.get("steps", 0)
        # Of some, such as train_loss, there is a curve, of which this would repeat the last step;
        # of a sweep that went on there are others by now.
        known = self._client.get_run(self.id).data.metrics
        figures = [
            Metric(_allowed(name), float(value), now, step)
            for name, value in result.items()
            if isinstance(value, Real) and known.get(name) != float(value)
        ]
        words = [
            RunTag(_allowed(name), value)
            for name, value in result.items()
            if isinstance(value, str)
        ]
        self._client.log_batch(self.id, metrics=figures, tags=words)
        self._client.set_terminated(self.id, _STATUS[outcome])


def _allowed(name: str) -> str:
    """A name as MLflow takes it."""
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)
