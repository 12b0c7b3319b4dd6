"""What a sweep is going to do: groups, compilations, examples, memory and time."""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from rowrnn import data, parallel
from rowrnn.config import DataConfig
from rowrnn.core import experiment
from rowrnn.core import state as states
from rowrnn.core.experiment import Experiment
from rowrnn.data import Dataset
from rowrnn.lab import stack, trainer
from rowrnn.lab.stack import StackPrograms
from rowrnn.lab.trainer import Splits
from rowrnn.store import members as members_
from rowrnn.store.ledger import Key, Ledger, Record, make_key
from rowrnn.store.members import Member

# Of what a device has left, what a stack under vmap may take: allocators need room to move.
_SHARE_OF_MEMORY = 0.8
# Several members at once gain nothing on a CPU, and lose the whole stack where it is cut.
_MOST_AT_ONCE_ON_CPU = 8
_TIMED_SECONDS = 0.3


@dataclass
class Group:
    """Members that run in the same programs.

    Attributes:
        prepared: the experiment that they have in common.
        members: all of them; `keys` and `records` are in the same order.
        keys: of their records.
        records: what the ledger has, None for those that are still to be run.
    """

    prepared: Experiment
    members: list[Member]
    keys: list[Key]
    records: list[Record | None]

    @property
    def pending(self) -> list[int]:
        """Which members are still to be run."""
        return [index for index, record in enumerate(self.records) if record is None]

    @property
    def examples(self) -> int:
        """Of one member."""
        return self.prepared.steps * self.prepared.config.train.batch_size

    @property
    def label(self) -> str:
        """What sets this group apart from the others of the sweep, in words."""
        varied = [member.varied for member in self.members]
        return ", ".join(
            f"{members_.short(name)}={value}"
            for name, value in varied[0].items()
            if all(other[name] == value for other in varied)
        )


@dataclass(frozen=True)
class GroupPlan:
    """The plan of one group; see `Plan`."""

    label: str
    members: int
    reused: int
    examples: int
    stack: int
    bytes_per_device: int | None
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a sweep is going to do.

    Attributes:
        members: of the whole sweep, `reused` of them recorded already.
        points: of the grid.
        strategy: "map" or "vmap".
        devices: over which seeds are divided.
        compilations: of the training program, one for each group with something left to do.
        examples: seed·examples that are still to be trained.
        seconds: estimate for all of it, from a few timed steps of the first group; the others
            are scaled by parameters and examples.
        groups: the parts of it; `stack` is how many members run side by side, `bytes_per_device`
            what the training program takes (of the first group; the others are not compiled yet).
    """

    members: int
    reused: int
    points: int
    strategy: str
    devices: int
    compilations: int
    examples: int
    seconds: float
    groups: list[GroupPlan]


class Datasets:
    """The data of the groups, each loaded once."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[object, ...], Dataset] = {}

    def load(self, config: DataConfig) -> Dataset:
        """What `data.load` gives; the augmentation has no part in it."""
        key = (config.dataset, config.dir, config.manual_dir, config.validation_size)
        if key not in self._loaded:
            self._loaded[key] = data.load(config)
        return self._loaded[key]


def make_groups(members: Sequence[Member], ledger: Ledger) -> list[Group]:
    """The members by the programs they run in, with what the ledger has of them.

    Raises `ConfigError` where a config does not fit its data, and `DataError`.
    """
    datasets, found = Datasets(), []
    for group in members_.groups(members):
        prepared = trainer.prepare(group[0].config, datasets.load(group[0].config.data))
        # Traces the model, which finds out whether its backend can run here.
        jax.eval_shape(lambda prepared=prepared: prepared.create_state(*prepared.seeds))
        keys = [make_key(member, prepared.dataset.fingerprint) for member in group]
        records = [
            record and dataclasses.replace(record, name=member.name, varied=dict(member.varied))
            for member, record in zip(group, ledger.read(keys), strict=True)
        ]
        found.append(Group(prepared, group, keys, records))
    return found


def compile_group(
    group: Group,
    mesh: Mesh,
    splits: Splits,
    *,
    vmap: bool,
    chunk: int | None,
    most: int | None = None,
    in_progress: int = 0,
) -> StackPrograms:
    """Compiles a stack of the right size for what is left of a group.

    Args:
        group: with at least one member that is still to be run.
        mesh: the devices.
        splits: the data on them.
        vmap: whether the members of a device run at once.
        chunk: members of a device; None chooses: with `vmap` as many as fit its memory, otherwise
            one, so that each is recorded when it is done.
        most: the most members of a device that memory has been found to allow.
        in_progress: members of a stack that was saved, which goes on in one that takes them all;
            0 where there is none.
    """
    devices = mesh.shape["seed"]
    needed = math.ceil(len(group.pending) / devices)
    limit = min(needed, most or needed)

    def compiled(each: int) -> StackPrograms:
        return stack.compile_stack(group.prepared, mesh, splits, each * devices, vmap=vmap)

    if in_progress:
        return compiled(math.ceil(in_progress / devices))
    if chunk is not None or not vmap:
        return compiled(min(limit, chunk or 1))
    if mesh.devices.flat[0].platform == "cpu":
        limit = min(limit, _MOST_AT_ONCE_ON_CPU)
    trial = min(limit, 4)
    programs = compiled(trial)
    for_one = parallel.device_bytes(programs.chunk) / trial
    # Of the process that has least, since all run the same program.
    (used,) = parallel.largest(-parallel.free_bytes(mesh))
    fit = max(1, int(_SHARE_OF_MEMORY * -used / for_one))
    return programs if min(limit, fit) == trial else compiled(min(limit, fit))


def make(
    groups: Sequence[Group], mesh: Mesh, splits: Splits | None, programs: StackPrograms | None,
    *, strategy: str,
) -> Plan:  # fmt: skip
    """The plan for groups of which the first with something left to do is compiled."""
    first = next((group for group in groups if group.pending), None)
    per_member, size, needs = 0.0, 0, None
    if first is not None and programs is not None and splits is not None:
        size, needs = programs.size, parallel.device_bytes(programs.chunk)
        seconds = _seconds_of_a_stack(first, mesh, splits, programs)
        per_member = seconds / min(size, len(first.pending))
    parts = []
    for group in groups:
        scale = 0.0
        if first is not None:
            scale = _work(group) / _work(first)
        parts.append(
            GroupPlan(
                label=group.label,
                members=len(group.members),
                reused=len(group.members) - len(group.pending),
                examples=group.examples * len(group.pending),
                stack=min(size, len(group.pending)),
                bytes_per_device=needs if group is first else None,
                seconds=per_member * scale * len(group.pending),
            )
        )
    return Plan(
        members=sum(part.members for part in parts),
        reused=sum(part.reused for part in parts),
        points=len({member.point for group in groups for member in group.members}),
        strategy=strategy,
        devices=mesh.shape["seed"],
        compilations=sum(bool(group.pending) for group in groups),
        examples=sum(part.examples for part in parts),
        seconds=sum(part.seconds for part in parts),
        groups=parts,
    )


def _work(group: Group) -> float:
    """What one member costs, but for a factor that is the same for all groups."""
    state = jax.eval_shape(lambda: group.prepared.create_state(*group.prepared.seeds))
    return group.examples * sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _seconds_of_a_stack(group: Group, mesh: Mesh, splits: Splits, programs: StackPrograms) -> float:
    """How long a whole stack takes, from some steps and an evaluation that are thrown away."""
    prepared, size = group.prepared, programs.size
    seeds = parallel.stack_on(mesh, np.zeros(size, np.uint32))
    values = parallel.stack_on(mesh, stack.stack_values([prepared.values] * size))
    state = programs.create(seeds, seeds)
    orders = programs.order(state.key, np.int32(0))

    def run(steps: int) -> float:
        nonlocal state
        sums, of_each = parallel.stack_on(mesh, (stack.zeros(size), np.full(size, steps, np.int32)))
        began = time.perf_counter()
        state, sums = programs.chunk(state, sums, values, splits.train, orders, of_each)
        jax.block_until_ready(sums)
        (seconds,) = parallel.largest(time.perf_counter() - began)
        return seconds

    run(1)
    once = run(1)
    steps = max(1, min(prepared.steps, int(_TIMED_SECONDS / once)))
    per_step = run(steps) / steps
    params = states.evaluation_params(state)
    began = time.perf_counter()
    jax.block_until_ready(programs.test(params, values, splits.test))
    per_image = (time.perf_counter() - began) / len(prepared.dataset.test.labels)
    events = experiment.Events.of(prepared)
    looks = math.ceil(prepared.steps / events.evaluate)
    images = len(prepared.dataset.test.labels) + looks * len(prepared.dataset.validation.labels)
    return prepared.steps * per_step + images * per_image
