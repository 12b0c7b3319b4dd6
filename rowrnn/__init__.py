"""Row-wise recurrent networks for images, in JAX: train them, time them, sweep them over seeds.

The same jobs as on the command line, as functions:

- `train` trains one run and keeps it in a directory; `evaluate`, `predict` and `export` use it,
  `export_web` puts it in a page, and `read` shows probabilities, hidden states and gates after each
  row of one image;
- `sweep` trains many seeds and says how they are distributed; `compare` holds two sweeps against
  each other; `extract` takes a member out as a run of its own;
- `runs` lists what lies under a directory, with results and differences;
- `report` writes a page that shows a run, a sweep or a bench record;
- `Dataset.from_arrays` makes a dataset of arrays, which `train`, `sweep` and `evaluate` take;
- `load` gives the trained network itself;
- `make_train` gives the whole training as a pure function of the seed, for `jit` and `vmap`.

A name is imported when it is first used, so that ``import rowrnn`` costs nothing.
"""

import importlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowrnn.config import Config
    from rowrnn.core.dataset import Dataset
    from rowrnn.core.experiment import Trained, make_train
    from rowrnn.lab.classifier import Classifier, load
    from rowrnn.lab.compare import SweepComparison, compare
    from rowrnn.lab.evaluate import Evaluation, evaluate
    from rowrnn.lab.predict import Prediction, predict
    from rowrnn.lab.runs import PointSummary, RunSummary, runs
    from rowrnn.lab.sweep import SweepResult, SweepSettings, extract, sweep
    from rowrnn.lab.train import TrainResult, train
    from rowrnn.show.export import export, export_web
    from rowrnn.show.read import Reading, read
    from rowrnn.show.report import Report, report

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "Config",
    "Dataset",
    "Evaluation",
    "PointSummary",
    "Prediction",
    "Reading",
    "Report",
    "RunSummary",
    "SweepComparison",
    "SweepResult",
    "SweepSettings",
    "TrainResult",
    "Trained",
    "compare",
    "evaluate",
    "export",
    "export_web",
    "extract",
    "load",
    "make_train",
    "predict",
    "read",
    "report",
    "runs",
    "sweep",
    "train",
]

_HOMES = {
    name: f"rowrnn.{module}"
    for module, names in {
        "config": ("Config",),
        "core.dataset": ("Dataset",),
        "core.experiment": ("Trained", "make_train"),
        "lab.classifier": ("Classifier", "load"),
        "lab.compare": ("SweepComparison", "compare"),
        "lab.evaluate": ("Evaluation", "evaluate"),
        "lab.predict": ("Prediction", "predict"),
        "lab.runs": ("PointSummary", "RunSummary", "runs"),
        "lab.sweep": ("SweepResult", "SweepSettings", "extract", "sweep"),
        "lab.train": ("TrainResult", "train"),
        "show.export": ("export", "export_web"),
        "show.read": ("Reading", "read"),
        "show.report": ("Report", "report"),
    }.items()
    for name in names
}


# Several threads that import jax at once see parts of it that are not there yet.
_IMPORTING = threading.RLock()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rowrnn' has no attribute {name!r}")
    with _IMPORTING:
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
