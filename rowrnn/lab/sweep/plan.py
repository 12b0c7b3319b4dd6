"""What a sweep is going to do: groups, compilations, examples, memory and time."""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from rowrnn import config as configs
from rowrnn import data, parallel
from rowrnn.config import DataConfig
from rowrnn.core.dataset import Dataset
from rowrnn.core.experiment import Experiment
from rowrnn.errors import ConfigError
from rowrnn.lab.loop import Events
from rowrnn.lab.trainer import Compiler, Splits, Trainer, prepare, stack_members
from rowrnn.store import members as members_
from rowrnn.store.ledger import Key, Ledger, Record, make_key
from rowrnn.store.members import Member

# Share of a device's free memory that a stack under vmap may take: allocators need room to move.
_SHARE_OF_MEMORY = 0.8
# Several members at once gain nothing on a CPU, and lose the whole stack where it is cut.
_MOST_AT_ONCE_ON_CPU = 8
_TIMED_SECONDS = 0.3
_AUGMENTATION: dict[str, Any] = {
    "shift": 0, "rotation": 0.0, "scale": 0.0, "shear": 0.0, "elastic": 0.0
}  # fmt: skip


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
        first, *others = [member.varied for member in self.members]
        common = {n: v for n, v in first.items() if all(other[n] == v for other in others)}
        return members_.point_of(common, ", ")


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
        seconds: estimate for all of it without compiling, from a few timed steps of the first
            group; the others are scaled by parameters and examples.
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


def make_groups(
    members: Sequence[Member], ledger: Ledger, dataset: Dataset | None = None
) -> list[Group]:
    """The members by the programs they run in, with what the ledger has of them.

    Where a `dataset` is given, it is that of all of them. Raises `ConfigError` where a config does
    not fit its data, and `DataError`.
    """
    found = []

    # Each data set is loaded once; the augmentation has no part in it.
    @functools.cache
    def load(config: DataConfig) -> Dataset:
        return data.load(config) if dataset is None else data.split(dataset, config)

    for group in members_.groups(members):
        config = group[0].config.data
        loaded = load(dataclasses.replace(config, **_AUGMENTATION))
        prepared = prepare(group[0].config, loaded)
        group = [
            dataclasses.replace(
                member, config=configs.of_data(member.config, loaded.name, loaded.channels)
            )
            for member in group
        ]
        # Traces the model, which finds out whether its backend can run here.
        jax.eval_shape(lambda prepared=prepared: prepared.create_state(*prepared.seeds))
        keys = [make_key(member, prepared.dataset.fingerprint) for member in group]
        records = [
            record and dataclasses.replace(record, name=member.name, varied=dict(member.varied))
            for member, record in zip(group, ledger.read(keys), strict=True)
        ]
        found.append(Group(prepared, group, keys, records))
    return found


def make_trainer(
    group: Group,
    mesh: Mesh,
    *,
    vmap: bool,
    chunk: int | None,
    most: int | None = None,
    in_progress: int = 0,
    splits: Splits | None = None,
) -> Trainer:
    """A trainer of the right size for what is left of a group.

    Args:
        group: with at least one member that is still to be run.
        mesh: the devices.
        vmap: whether the members of a device run at once.
        chunk: members of a device; None chooses: with `vmap` as many as fit its memory, otherwise
            one, so that each is recorded when it is done.
        most: the most members of a device that memory has been found to allow.
        in_progress: members of a stack that was saved, which goes on in one that takes them all;
            0 where there is none.
        splits: the data, where it lies on the mesh already.
    """
    devices = mesh.shape["seed"]
    needed = math.ceil(len(group.pending) / devices)
    limit = min(needed, most or needed)

    def trainer(each: int) -> Trainer:
        return Trainer(group.prepared, mesh, each * devices, vmap=vmap, splits=splits)

    if in_progress:
        return trainer(math.ceil(in_progress / devices))
    if chunk is not None or not vmap:
        return trainer(min(limit, chunk or 1))
    if mesh.devices.flat[0].platform == "cpu":
        limit = min(limit, _MOST_AT_ONCE_ON_CPU)
    return trainer(limit if limit <= 4 else min(limit, _most_that_fit(group.prepared, mesh)))


def _most_that_fit(prepared: Experiment, mesh: Mesh) -> int:
    """How many members fit into a device at once, from what 2 and 4 of them need.

    Raises `ConfigError` where an accelerator does not tell what it has.
    """
    devices = mesh.shape["seed"]
    two, four = (
        parallel.device_bytes(Compiler(prepared, mesh, each * devices, vmap=True).chunk())
        for each in (2, 4)
    )
    free = parallel.free_bytes(mesh)
    if free is None:
        raise ConfigError(
            "this device does not tell how much memory it has; --chunk N says how many members "
            "it takes at once"
        )
    # The process with the least memory decides, since all run the same program.
    (least,) = parallel.max_over_processes(-free)
    return max(1, members_that_fit((2, two), (4, four), -least)[1])


def members_that_fit(
    fewer: tuple[int, int], more: tuple[int, int], memory: float
) -> tuple[float, int]:
    """The bytes of a member and how many members fit, from (members, bytes) of two programs.

    What all members share, such as the data, is needed once.
    """
    for_one = (more[1] - fewer[1]) / (more[0] - fewer[0])
    shared = fewer[1] - fewer[0] * for_one
    return for_one, int((_SHARE_OF_MEMORY * memory - shared) / for_one)


def make(groups: Sequence[Group], mesh: Mesh, trainer: Trainer | None, *, strategy: str) -> Plan:
    """The plan for groups, with the trainer of the first that has something left to do."""
    first = next((group for group in groups if group.pending), None)
    per_member, size, needs = 0.0, 0, None
    if first is not None and trainer is not None:
        size, needs = trainer.members, parallel.device_bytes(trainer.programs.chunk)
        seconds = _seconds_of_a_stack(trainer)
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


def _seconds_of_a_stack(trainer: Trainer) -> float:
    """How long a whole stack takes, from some steps and an evaluation that are thrown away."""
    experiment = trainer.experiment
    state = trainer.init(*stack_members([experiment] * trainer.members))
    order = trainer.order(state, 0)

    def run(steps: int) -> float:
        nonlocal state
        began = time.perf_counter()
        state = jax.block_until_ready(trainer.run(state, order, steps))
        (seconds,) = parallel.max_over_processes(time.perf_counter() - began)
        return seconds

    run(1)
    once = run(1)
    steps = max(1, min(experiment.steps, int(_TIMED_SECONDS / once)))
    per_step = run(steps) / steps
    began = time.perf_counter()
    jax.block_until_ready(trainer.test(state))
    dataset = experiment.dataset
    per_image = (time.perf_counter() - began) / len(dataset.test.labels)
    looks = math.ceil(experiment.steps / Events.of(experiment).evaluate)
    images = len(dataset.test.labels) + looks * len(dataset.validation.labels)
    return experiment.steps * per_step + images * per_image
