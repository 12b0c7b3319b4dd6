"""The same training step in other libraries, in turns with rowrnn's.

Every peer first proves that it computes what rowrnn computes: from the same weights and the same
batches the logits of the first batch and the losses of six steps of Adam must be those of the
oracle. One that fails is reported as wrong and is not timed. Then rowrnn and the peer take turns,
each in its own process and in the fastest of its settings, and each pair of neighbouring samples
gives a ratio.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rowrnn.bench import flops, oracle, record, suites
from rowrnn.bench.child import Child, ChildError, NotInstalledError
from rowrnn.bench.peers.task import EVAL_BATCH, RATE, Task, make_task
from rowrnn.bench.timing import progress
from rowrnn.bench.turns import Contender, best_product, ratio_interval, take_turns
from rowrnn.config import nearest
from rowrnn.errors import ConfigError

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "pytorch": [{}],
    # Keras leaves the choice to its user, and it depends on the batch which is faster.
    "keras3": [{}, {"unroll": True}, {"jit_compile": True}],
    "flax_linen": [{}],
    "flax_nnx": [{}],
    "equinox": [{}],
}
"""The settings of each peer; the fastest is timed."""

_STEPS = 6
_FIRST_TOLERANCE, _LATER_TOLERANCE = 1e-5, 1e-4
_TRIALS = 3


class WrongError(ChildError):
    """A peer does not compute what it should."""


def run(suite: suites.Peers, *, quick: bool) -> dict[str, Any]:
    """Times every peer that is installed against rowrnn."""
    for name in suite.peers:
        if name not in VARIANTS:
            raise ConfigError(f"peers = {name!r}: no such peer{nearest(name, VARIANTS)}")
    if not suite.projection:
        raise ConfigError("projection = 0: the peers have one; give at least 1")
    figures, ratios, skipped, wrong, versions = [], {}, {}, {}, {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rate, platform = _products()
        # Where there are accelerators, all of them, as `rowrnn train` takes them.
        devices = suite.devices if platform == "cpu" else (0,)
        races = [_Race(stack, suite, directory, batch, rate, devices) for batch in suite.batch]
        device = races[0].device
        for peer in suite.peers:
            try:
                for race in races:
                    for entry, ratio in race.run(peer):
                        figures += entry
                        ratios.setdefault(peer, {}).update(ratio)
                versions |= races[0].versions
            except NotInstalledError as error:
                skipped[peer] = f"{error} is not installed"
            except WrongError as error:
                wrong[peer] = str(error)
            except ChildError as error:
                skipped[peer] = str(error)
    figures += [{"name": peer, "wrong": reason} for peer, reason in wrong.items()]
    return record.document(
        suite,
        quick=quick,
        device=device,
        figures=figures,
        versions=versions,
        sgemm_gflops=rate,
        ratios=ratios,
        skipped=skipped,
    )


class _Race:
    """One batch size: rowrnn's processes, which stay, and the task."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        suite: suites.Peers,
        directory: Path,
        batch: int,
        rate: float,
        devices: Sequence[int],
    ):
        self._suite, self._batch, self._rate = suite, batch, rate
        self._path = directory / f"task-{batch}.npz"
        self._task = make_task(self._path, suite.projection, suite.hidden)
        if batch > len(self._task.labels):
            raise ConfigError(f"batch = {batch}: there are {len(self._task.labels)} images")
        images, labels = (part[self._task.order] for part in (self._task.images, self._task.labels))
        self._truth = oracle.training(self._task.weights, images, labels, batch, _STEPS - 1, RATE)
        self.versions: dict[str, str] = {}
        self._fastest_own: dict[str, tuple[dict[str, Any], Contender]] = {}
        self._own = self._start(stack, "rowrnn", [{"devices": count} for count in devices])
        self.device = {
            name: self._own[0][1].facts[name] for name in ("platform", "kind", "devices")
        }

    def run(self, peer: str) -> Iterable[tuple[list[dict[str, Any]], dict[str, list[float]]]]:
        """Figures and ratios of each workload against one peer."""
        with contextlib.ExitStack() as stack:
            theirs = self._start(stack, peer, VARIANTS[peer])
            yield self._take_turns(peer, theirs, "train")
            if self._suite.evaluation and self._batch == self._suite.batch[0]:
                yield self._take_turns(peer, theirs, "evaluate")

    def _start(
        self, stack: contextlib.ExitStack, peer: str, variants: list[dict[str, Any]]
    ) -> list[tuple[dict[str, Any], Child]]:
        """A process for each variant, all of which have proved what they compute."""
        options = {"task": str(self._path), "batch": self._batch}
        children = []
        for variant in variants:
            child = stack.enter_context(Child(f"{__name__}.{peer}", options | variant))
            self.versions |= child.facts["versions"]
            prove(child, self._truth)
            children.append((variant, child))
        return children

    def _take_turns(
        self, peer: str, theirs: list[tuple[dict[str, Any], Child]], do: str
    ) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
        own = self._fastest_own[do] = self._fastest_own.get(do) or self._fastest(
            "rowrnn", self._own, do
        )
        other = self._fastest(peer, theirs, do)
        samples = take_turns([own[1], other[1]], self._suite.repeats)
        examples = self._batch if do == "train" else EVAL_BATCH
        key = str(self._batch) if do == "train" else f"eval{EVAL_BATCH}"
        shape = _shape(self._task)
        count = flops.training(shape) if do == "train" else flops.forward(shape)
        figures = [
            record.figure(
                f"{name} against {peer}, {key}" if name == "rowrnn" else f"{name}, {key}",
                {"peer": name, "workload": key},
                seconds,
                examples=examples,
                flops=count,
                ceiling_gflops=self._rate,
                setting=setting,
            )
            for name, (setting, _), seconds in zip(
                ("rowrnn", peer), (own, other), samples, strict=True
            )
        ]
        progress(f"{peer}, {key}: timed")
        pairs = [theirs / ours for ours, theirs in zip(*samples, strict=True)]
        ratio = record.figure(f"rowrnn / {peer}, {key}", {"peer": peer, "workload": key}, pairs)
        return [*figures, ratio | {"unit": "ratio"}], {key: list(ratio_interval(pairs))}

    def _fastest(
        self, name: str, variants: list[tuple[dict[str, Any], Child]], do: str
    ) -> tuple[dict[str, Any], Contender]:
        """The variant that is fastest at something, by the best of a few short samples."""
        granule = len(self._task.labels) // EVAL_BATCH if do == "evaluate" else 1
        contenders = [Contender(name, [child], do, granule) for _, child in variants]
        for contender in contenders:
            contender.calibrate(self._suite.sample_s / 3)
        trials = take_turns(contenders, _TRIALS)
        fastest = min(range(len(variants)), key=lambda index: min(trials[index]))
        contenders[fastest].calibrate(self._suite.sample_s)
        return variants[fastest][0], contenders[fastest]


def _products() -> tuple[float, str]:
    """GFLOP/s of float32 products and the platform, by a process that then makes room."""
    with Child("rowrnn.bench.ceiling", {}) as child:
        return best_product(child)[1], child.facts["platform"]


def prove(child: Child, truth: tuple[np.ndarray, list[float]]) -> None:
    """Raises `WrongError` unless logits and losses are those of the oracle.

    Args:
        child: a peer that has not taken a step.
        truth: what `oracle.training` gave.
    """
    logits, losses = truth
    error = oracle.distance(np.array(child.ask("first_logits"))[: len(logits)], logits)
    if error > _FIRST_TOLERANCE:
        raise WrongError(f"{child.role}: its logits are off by {error:.1e}, norm-wise")
    for step, (loss, true) in enumerate(zip(child.ask("losses", _STEPS), losses, strict=True)):
        error = abs(loss - true) / true
        # Not `>`: a loss that is no number fails too.
        if not error <= (_LATER_TOLERANCE if step else _FIRST_TOLERANCE):
            raise WrongError(f"{child.role}: its loss at step {step} is off by {error:.1e}")


def _shape(task: Task) -> flops.Shape:
    rows, features = task.images.shape[1:]
    hidden, classes = task.weights["readout_kernel"].shape
    return flops.Shape(rows, features, task.weights["projection_bias"].size, hidden, classes)
