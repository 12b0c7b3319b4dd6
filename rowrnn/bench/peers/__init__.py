"""The same training step in other libraries, in turns with rowrnn's.

Every peer first proves that it computes what rowrnn computes: from the same weights and the same
batches the logits of the first batch and the losses of six steps of Adam must be those of the
oracle. One that fails is reported as wrong and is not timed. Then rowrnn and the peer take turns,
each in its own process (on an accelerator in that which holds it) and in the fastest of its
settings, and each pair of neighbouring samples gives a ratio.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from rowrnn.bench import flops, oracle, record, suites
from rowrnn.bench.child import Child, ChildError, NotInstalledError
from rowrnn.bench.peers.task import EVAL_BATCH, EXAMPLES, RATE, make_task
from rowrnn.bench.timing import Stop, progress
from rowrnn.bench.turns import Contender, Product, ratio_interval, start_product, take_turns
from rowrnn.errors import ConfigError, nearest

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
        product = start_product(stack, suite.sample_s)
        if not product.holder:  # Its process makes room.
            stack.close()
        races = [_Race(stack, suite, batch, product) for batch in suite.batch]
        with Stop(lambda: ratios) as stop:
            for peer in suite.peers:
                progress(peer)
                try:
                    for race in races:
                        for workload, ratio, entries in race.run(peer):
                            figures += entries
                            ratios.setdefault(peer, {})[workload] = ratio
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
        device=races[0].device,
        figures=figures,
        versions=versions,
        stopped=stop.came,
        sgemm_gflops=product.gflops,
        ratios=ratios,
        skipped=skipped,
    )


# A setting of a peer, and the process that has it.
_Variant = tuple[dict[str, Any], Child]


class _Race:
    """One batch size: rowrnn's processes, which stay, and the task.

    Attributes:
        versions: of the libraries that have been started.
        device: that rowrnn runs on.
    """

    def __init__(
        self, stack: contextlib.ExitStack, suite: suites.Peers, batch: int, product: Product
    ):
        if batch > EXAMPLES:
            raise ConfigError(f"batch = {batch}: there are {EXAMPLES} images")
        self._suite, self._batch, self._rate = suite, batch, product.gflops
        self._holder = product.holder
        self._task = task = make_task(batch, suite.hidden, suite.projection)
        images, labels = task.images[task.order], task.labels[task.order]
        self._truth = oracle.training(task.weights, images, labels, batch, _STEPS - 1, RATE)
        self.versions: dict[str, str] = {}
        # rowrnn takes all accelerators, where there are any, as `rowrnn train` does.
        settings = [{"devices": n} for n in ((0,) if self._holder else suite.devices)]
        self._own = self._start(stack, "rowrnn", settings)
        self._fastest_own: dict[str, tuple[dict[str, Any], Contender]] = {}
        self.device = self._own[0][1].facts

    def run(self, peer: str) -> Iterator[tuple[str, list[float], list[dict[str, Any]]]]:
        """Each workload against one peer: its name, the ratio with its interval, and figures."""
        with contextlib.ExitStack() as stack:
            theirs = self._start(stack, peer, VARIANTS[peer])
            yield self._take_turns(peer, theirs, "train")
            if self._suite.evaluation and self._batch == self._suite.batch[0]:
                yield self._take_turns(peer, theirs, "evaluate")

    def _start(
        self, stack: contextlib.ExitStack, peer: str, variants: list[dict[str, Any]]
    ) -> list[_Variant]:
        """A process for each variant, all of which have proved what they compute."""
        suite = self._suite
        options = {"batch": self._batch, "hidden": suite.hidden, "projection": suite.projection}
        children = []
        for variant in variants:
            role = f"{__name__}.{peer}"
            child = stack.enter_context(Child(role, options | variant, within=self._holder))
            self.versions |= child.facts["versions"]
            prove(child, self._truth)
            children.append((variant, child))
        return children

    def _take_turns(
        self, peer: str, theirs: list[_Variant], do: str
    ) -> tuple[str, list[float], list[dict[str, Any]]]:
        if do not in self._fastest_own:
            self._fastest_own[do] = self._fastest(self._own, do)
        pair = [self._fastest_own[do], self._fastest(theirs, do)]
        samples = take_turns([contender for _, contender in pair], self._suite.repeats)
        training = do == "train"
        key = str(self._batch) if training else f"eval{EVAL_BATCH}"
        names = {"rowrnn": f"rowrnn against {peer}", peer: peer}
        figures = [
            record.figure(
                f"{label}, {key}",
                {"peer": name, "workload": key},
                seconds,
                examples=self._batch if training else EVAL_BATCH,
                flops=(flops.training if training else flops.forward)(self._task.shape),
                ceiling_gflops=self._rate,
                setting=setting,
            )
            for (name, label), (setting, _), seconds in zip(
                names.items(), pair, samples, strict=True
            )
        ]
        progress(f"{peer}, {key}: timed")
        pairs = [theirs / ours for ours, theirs in zip(*samples, strict=True)]
        ratio = record.figure(f"rowrnn / {peer}, {key}", {"peer": peer, "workload": key}, pairs)
        return key, list(ratio_interval(pairs)), [*figures, ratio | {"unit": "ratio"}]

    def _fastest(self, variants: list[_Variant], do: str) -> tuple[dict[str, Any], Contender]:
        """The variant that is fastest at something, by the best of a few short samples."""
        granule = EXAMPLES // EVAL_BATCH if do == "evaluate" else 1
        contenders = [Contender(child.role, [child], do, granule) for _, child in variants]
        for contender in contenders:
            contender.calibrate(self._suite.sample_s / 3)
        trials = take_turns(contenders, _TRIALS)
        fastest = min(range(len(variants)), key=lambda index: min(trials[index]))
        contenders[fastest].calibrate(self._suite.sample_s)
        return variants[fastest][0], contenders[fastest]


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
