"""What a sweep consists of: members, each a configuration of its own.

A sweep is a configuration, some seeds and a grid of other values. Each member is what
``rowrnn train`` would run with that seed and those values; here is only said which there are.

>>> from rowrnn.config import Config
>>> spec = Spec(Config(), seeds=(0, 1), grid={"optimizer.learning_rate": (1e-3, 3e-3)})
>>> [member.name for member in make_members(spec)][:2]
['learning_rate=0.001,seed=0', 'learning_rate=0.003,seed=0']
"""

import dataclasses
import hashlib
import itertools
import math
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rowrnn import config as configs
from rowrnn import files
from rowrnn.config import Config, Seed
from rowrnn.errors import ConfigError, RunError, cut, shown
from rowrnn.store import rundir

Vary = Literal["both", "init", "data"]

_SEEDS = ("train.seed", "train.init_seed")
_MOST_MEMBERS = 1_000_000
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Spec:
    """A sweep in words.

    Attributes:
        config: what all members have in common.
        seeds: of the members; each point of the grid is run with all of them.
        grid: values to try by dotted name; the points are all their combinations.
        vary: what a seed decides: "both", "init" (the parameters alone; data order, dropout and
            augmentation are those of `config.train.seed`) or "data" (the reverse).
    """

    config: Config
    seeds: tuple[int, ...]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    vary: Vary = "both"


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        config: of the run, as `rowrnn train` takes it.
        seed: as the sweep counts them.
        varied: the values of the grid that this member has, by dotted name.
    """

    config: Config
    seed: int
    varied: Mapping[str, Any]

    @property
    def point(self) -> str:
        """The values of the grid in words, empty without a grid."""
        return point_of(self.varied)

    @property
    def name(self) -> str:
        """Point and seed in words, unique within a sweep."""
        return ",".join(filter(None, [self.point, f"seed={self.seed}"]))

    @property
    def directory(self) -> str:
        """The name as a file system takes it: a value may be a path, and long.

        >>> Member(Config(), 0, {"data.dir": "../x"}).directory
        'dir=..%2Fx,seed=0'
        """
        quoted = urllib.parse.quote(self.name, safe="=,+ ")
        if len(quoted) <= _LONGEST_NAME:
            return quoted
        return f"{hashlib.sha256(quoted.encode()).hexdigest()[:20]},seed={self.seed}"


def short(name: str) -> str:
    """The last part of a dotted name, which says enough to a reader."""
    return name.split(".")[1]


def point_of(varied: Mapping[str, Any], between: str = ",") -> str:
    """A point of a grid in words: its values by the last part of their names."""
    return between.join(f"{short(name)}={value}" for name, value in varied.items())


def make_members(spec: Spec) -> list[Member]:
    """All members, seed by seed, so that the first results are of all points.

    Raises `ConfigError` where a name is unknown, a value out of range or a seed given twice.
    """
    _check(spec)
    points = [
        dict(zip(spec.grid, values, strict=True))
        for values in itertools.product(*spec.grid.values())
    ]
    bases = []
    for point in points:
        config = configs.override(spec.config, point)
        configs.check(config)
        bases.append((config, point))
    return [
        Member(configs.replace(config, _seeds(spec, seed) | _layout(config)), seed, point)
        for seed in spec.seeds
        for config, point in bases
    ]


def groups(members: Iterable[Member]) -> list[list[Member]]:
    """The members by the programs that they run in: alike in all but seeds and traced numbers."""
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(structure(member.config), []).append(member)
    return list(found.values())


def structure(config: Config) -> str:
    """A digest of all that decides the programs of a run; alike for those that share them."""
    values = dict.fromkeys(configs.traced(config), 0.5)
    values |= {"train.seed": 0, "train.init_seed": None}
    return configs.digest(configs.replace(config, values))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds as the command line gives them: numbers and half-open ranges, with commas between.

    >>> parse_seeds("0:4,10")
    (0, 1, 2, 3, 10)
    """
    seeds: list[int] = []
    given = cut(text)
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,10})(?::(\d{1,10}))?", part.strip(), re.ASCII)
        if match is None:
            raise ConfigError(
                f"--seeds {given}: {shown(part)} is neither a seed nor a range; write 0:64 "
                "for the 64 seeds from 0 to 63, or 3,5,7"
            )
        first = int(match[1])
        end = int(match[2]) if match[2] else first + 1
        if end <= first:
            raise ConfigError(f"--seeds {given}: {part!r} holds no seed; the end must be larger")
        if end - first + len(seeds) > _MOST_MEMBERS:
            raise ConfigError(f"--seeds {given}: must be at most {_MOST_MEMBERS:,} seeds")
        seeds += range(first, end)
    return tuple(seeds)


def parse_grid(axes: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """A grid as the command line gives it: ``section.key=value,value`` for each axis.

    >>> parse_grid(["model.hidden_size=64,128"])
    {'model.hidden_size': (64, 128)}
    """
    grid: dict[str, tuple[Any, ...]] = {}
    for axis in axes:
        name, equals, texts = axis.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not texts:
            raise ConfigError(
                f"--grid {cut(axis)}: must be written as name=value,value, such as "
                "optimizer.learning_rate=1e-3,3e-3"
            )
        if name in grid:
            raise ConfigError(
                f"--grid {cut(axis)}: {cut(name)} is given twice; give all its values at once"
            )
        grid[name] = tuple(configs.parse_value(name, text.strip()) for text in texts.split(","))
    return grid


def _seeds(spec: Spec, seed: int) -> dict[str, Any]:
    """The seeds of a member's config."""
    base = spec.config.train
    match spec.vary:
        case "init":
            return {"train.init_seed": seed}
        case "data":
            frozen = base.seed if base.init_seed is None else base.init_seed
            return {"train.seed": seed, "train.init_seed": frozen}
        case _:
            return {"train.seed": seed, "train.init_seed": None}


def _layout(config: Config) -> dict[str, Any]:
    """Where a member runs that is a run of its own: on the devices that share its batch."""
    return {"parallel.devices": config.parallel.data or 1, "parallel.seed": None}


def _check(spec: Spec) -> None:
    configs.check(spec.config)
    if spec.vary not in get_args(Vary):
        raise ConfigError(f"vary = {spec.vary!r}: must be one of {', '.join(get_args(Vary))}")
    if not spec.seeds:
        raise ConfigError("seeds: must hold at least one seed, such as 0:16")
    for seed in spec.seeds:
        train = dataclasses.replace(spec.config.train, seed=seed)
        configs.check(dataclasses.replace(spec.config, train=train))
    most_common, times = Counter(spec.seeds).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"seeds: {most_common} is given {times} times; each seed is one run")
    for name, values in spec.grid.items():
        if name in _SEEDS:
            raise ConfigError(f"{name} cannot vary in a grid; give the seeds with --seeds")
        if name in configs.FREE:
            raise ConfigError(f"{name} cannot vary in a grid: it does not change what is learned")
        for value in values:
            configs.check_value(name, value)
        if not values or len(set(values)) < len(values):
            raise ConfigError(
                f"grid: {name} = {shown(values)}: must be different values, at least one"
            )
    members = len(spec.seeds) * math.prod(map(len, spec.grid.values()))
    if members > _MOST_MEMBERS:
        raise ConfigError(f"seeds and grid: {members:,} members; must be at most {_MOST_MEMBERS:,}")


@dataclass(frozen=True)
class SweepStart:
    """What a sweep was started with; ``sweep.json`` holds it.

    Attributes:
        seeds: of its members.
        grid: values of each field that varies, by dotted name.
        vary: what a seed decides.
        settings: how it is run.
    """

    seeds: list[Seed]
    grid: dict[str, list[Any]]
    vary: Vary
    settings: dict[str, Any]

    def spec(self, config: Config) -> Spec:
        """The sweep in words, with the configuration that its members have in common."""
        grid = {name: tuple(values) for name, values in self.grid.items()}
        return Spec(config, tuple(self.seeds), grid, self.vary)


def read_sweep(path: Path) -> SweepStart:
    """What a sweep was started with; raises `RunError` where the directory does not say it."""
    rundir.require_run(path, "rowrnn sweep")
    try:
        start = files.build(SweepStart, files.read_json(path / rundir.SWEEP_MARK))
        for name, values in start.grid.items():
            for value in values:
                configs.check_value(name, value)
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is a single run, not a sweep; go on with it by rowrnn train --resume {path}, "
            "or give the directory that `rowrnn sweep` named at its end"
        ) from error
    except OSError as error:
        raise RunError(f"{path / rundir.SWEEP_MARK} cannot be read: {error.strerror}") from error
    except (ValueError, ConfigError) as error:
        raise RunError(
            f"{path / rundir.SWEEP_MARK} does not say what the sweep is ({error}); start a new one"
        ) from error
    return start


def kept_state(sweep_dir: Path, member: Member) -> Path | None:
    """Where a sweep has kept the state of a member, a run of its own; None where it has not.

    A sweep that went on with another config may still have the state of another member of that
    name, which is none of this one's.
    """
    path = sweep_dir / "states" / member.directory
    if not any((path / "checkpoints").glob("[0-9]*")):
        return None
    return (
        path if configs.digest(rundir.read_config(path)) == configs.digest(member.config) else None
    )
