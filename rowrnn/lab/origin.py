"""Where a run begins that takes its first parameters from another one (`init_from`)."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np

from rowrnn import files
from rowrnn.core.experiment import Experiment
from rowrnn.core.model import Params
from rowrnn.core.state import TrainState, named_leaves
from rowrnn.errors import ConfigError, RunError
from rowrnn.files import Count, as_path
from rowrnn.store import checkpoint, weights
from rowrnn.store.rundir import RunDir

_FILE = "init.json"


@dataclass(frozen=True)
class Origin:
    """What ``init.json`` says of the first parameters of a run.

    Attributes:
        run_dir: the run, or the export of one, that they are taken from.
        step: updates done there.
        params_sha256: of the parameters, in hex.
    """

    run_dir: str
    step: Count
    params_sha256: str


def find(path: str | Path, experiment: Experiment) -> Origin:
    """The newest parameters of a run or export, for the network of an experiment.

    Raises `RunError` where there are none, and `ConfigError` where the network has other sizes.
    """
    network = weights.load(as_path(path, "init_from"))
    needed = jax.eval_shape(experiment.create_state, *experiment.seeds).params
    needed, found = _shapes(needed), _shapes(network.params)
    for name in [*needed, *found]:
        if needed.get(name) != found.get(name):
            raise ConfigError(
                f"init_from = {str(path)!r}: {name} is {found.get(name)} there and "
                f"{needed.get(name)} in this network; give it the sizes of that model, and data "
                "with as many rows, pixels and classes"
            )
    digest = checkpoint.params_digest(network.params)
    return Origin(str(as_path(path, "init_from").absolute()), network.step, digest)


def write(directory: RunDir, origin: Origin) -> None:
    """Keeps it with the run, which may be cut off before its first checkpoint."""
    directory.write(_FILE, json.dumps(asdict(origin), indent=2))


def read(path: Path) -> Origin | None:
    """What a run directory says; None of a run that draws its first parameters."""
    try:
        return files.build(Origin, files.read_json(path / _FILE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path / _FILE} cannot be read ({error}); start a new run") from error


def begin(state: TrainState, origin: Origin) -> TrainState:
    """A state of one member [1, ...] on the host before its first step, with those parameters.

    Raises `RunError` where they are not those any more.
    """
    params = weights.load(Path(origin.run_dir)).params
    if checkpoint.params_digest(params) != origin.params_sha256:
        raise RunError(
            f"{origin.run_dir} has other parameters than when this run was begun from it (step "
            f"{origin.step}); start a new run"
        )
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
    return state._replace(params=params, ema=None if state.ema is None else params)


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in named_leaves(params)}
