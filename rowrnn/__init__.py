"""Row-wise recurrent networks for images, in JAX: train them, time them, sweep them over seeds.

The same jobs as on the command line, as functions:

- `train` trains one run and keeps it in a directory; `evaluate`, `predict` and `export` use it,
  `export_web` puts it in a page, and `read` shows what it believes and holds after each row of one
  image;
- `sweep` trains many seeds and says how they are distributed; `compare` holds two sweeps against
  each other; `extract` takes a member out as a run of its own;
- `runs` lists what lies under a directory, with results and differences;
- `report` writes a page that shows a run, a sweep or a bench record;
- `load` gives the trained network itself;
- `make_train` gives the whole training as a pure function of the seed, for `jit` and `vmap`.

A name is imported when it is first used, so that ``import rowrnn`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowrnn.classifier import Classifier, load
    from rowrnn.config import Config
    from rowrnn.experiment import Trained, make_train
    from rowrnn.runners.compare import SweepComparison, compare
    from rowrnn.runners.evaluate import Evaluation, evaluate
    from rowrnn.runners.export import export, export_web
    from rowrnn.runners.predict import Prediction, predict
    from rowrnn.runners.read import Reading, read
    from rowrnn.runners.report import Report, report
    from rowrnn.runners.runs import PointSummary, RunSummary, runs
    from rowrnn.runners.sweep import SweepResult, SweepSettings, extract, sweep
    from rowrnn.runners.train import TrainResult, train

__all__ = [
    "Classifier",
    "Config",
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
    "Classifier": "rowrnn.classifier",
    "Config": "rowrnn.config",
    "Evaluation": "rowrnn.runners.evaluate",
    "PointSummary": "rowrnn.runners.runs",
    "Prediction": "rowrnn.runners.predict",
    "Reading": "rowrnn.runners.read",
    "Report": "rowrnn.runners.report",
    "RunSummary": "rowrnn.runners.runs",
    "SweepComparison": "rowrnn.runners.compare",
    "SweepResult": "rowrnn.runners.sweep",
    "SweepSettings": "rowrnn.runners.sweep",
    "TrainResult": "rowrnn.runners.train",
    "Trained": "rowrnn.experiment",
    "compare": "rowrnn.runners.compare",
    "evaluate": "rowrnn.runners.evaluate",
    "export": "rowrnn.runners.export",
    "export_web": "rowrnn.runners.export",
    "extract": "rowrnn.runners.sweep",
    "load": "rowrnn.classifier",
    "make_train": "rowrnn.experiment",
    "predict": "rowrnn.runners.predict",
    "read": "rowrnn.runners.read",
    "report": "rowrnn.runners.report",
    "runs": "rowrnn.runners.runs",
    "sweep": "rowrnn.runners.sweep",
    "train": "rowrnn.runners.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rowrnn' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
