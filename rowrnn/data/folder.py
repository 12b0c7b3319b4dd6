"""Own pictures: a folder for each class, below ``train/`` and ``test/`` or at one level.

Everything is decoded once, in threads, and kept as `rowrnn.data.cache` does. Beside what is kept
lies a CSV file that says which picture is in which part, in the order of the arrays.
"""

import collections
import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from rowrnn.checks import check_class_names, fingerprint
from rowrnn.config import DataConfig
from rowrnn.data import cache, pictures
from rowrnn.data.arrays import Arrays, Loaded, channels_of
from rowrnn.errors import ConfigError, DataError, count, cut, say

_SUFFIXES = (".png", ".jpg", ".jpeg")
_VALIDATION = ("validation", "valid", "val")
_LAYOUT = "it must hold a folder of PNG or JPEG files for each class, or train/ and test/ with such"
# Pictures whose longer side has more pixels are reduced only to a size that somebody names.
_MOST_SIDE = 512
_ORIENTATION = 0x0112
_GREY_MODES = ("1", "L", "I", "F")


class _File(NamedTuple):
    """A picture: its part, the folder that names its class, and its path."""

    part: str
    label: str
    path: str


def load(config: DataConfig) -> Loaded:
    """The pictures below `config.dir`, as `config.rows` and its neighbours say; see `DataConfig`.

    Raises `DataError` where they do not lie as they should, or one of them cannot be read.
    """
    root = Path(config.dir).resolve()
    try:
        files = _find(root, config.dir)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    listed = _digest(_states(files, root))
    names = tuple(_in_order({file.label for file in files if file.part != "test"}))
    files = _split(files, config)
    validation = sum(file.part == "validation" for file in files) or None
    source, state = root, ""
    # A cache made without `channels` may have those that are asked for now.
    for channels in dict.fromkeys((None, config.channels)):
        settings = [config.pictures or "as_is", channels]
        settings += [getattr(config, name) for name in _SETTINGS]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
        source, state = root.with_name(f"{root.name}-{key}"), f"{listed} {settings}"
        cached = cache.load(source, state)
        if cached is not None and config.channels in (None, channels_of(cached[0])):
            return Loaded(*cached, len(names), names, validation)
    arrays = _arrays(files, names, config)
    digest = fingerprint(arrays)
    kept = cache.save(source, arrays, digest, state)
    if kept is not None:
        given = Path(config.dir)
        place = given.parent if kept.parent == given.parent.resolve() else kept.parent
        _keep_split(place / kept.with_suffix(".csv").name, files, root)
    return Loaded(arrays, digest, len(names), names, validation)


_SETTINGS = ("rows", "columns", "test_share", "split_seed")


def list_pictures(directory: str | os.PathLike[str]) -> list[str]:
    """The PNG and JPEG files of a directory, at any depth, by name; hidden ones are left out.

    Raises `DataError` where it cannot be read.
    """
    found, seen = [], set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    for place, directories, names in os.walk(directory, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # A link that leads back.
            directories.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        directories[:] = _visible(directories)
        found += [
            os.path.join(place, name)
            for name in _visible(names)
            if name.lower().endswith(_SUFFIXES)
        ]
    return found


def split_off(
    labels: Sequence[str], names: Sequence[str], share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Which of some examples are to train on and which to test on: `share` of each class.

    A function of `seed` and names alone. Every beginning of the training part has about the same
    share of each class, so that it can be set apart for validation.

    >>> split_off(["a", "b"] * 5, [str(number) for number in range(10)], 0.2, 0)
    ([4, 9, 0, 5, 2, 3, 6, 7], [1, 8])
    """
    places: dict[str, list[tuple[bytes, int]]] = collections.defaultdict(list)
    for index, (label, name) in enumerate(zip(labels, names, strict=True)):
        drawn = hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogateescape")).digest()
        places[label].append((drawn, index))
    train, test = [], []
    for each in places.values():
        order = [index for _, index in sorted(each)]
        apart = min(max(1, round(share * len(order))), len(order) - 1) if share else 0
        test += order[:apart]
        rest = order[apart:]
        train += [((place + 0.5) / len(rest), index) for place, index in enumerate(rest)]
    return [index for _, index in sorted(train)], sorted(test)


def most_frequent(sizes: Iterable[tuple[int, int]], config: DataConfig) -> tuple[int, int]:
    """Rows and columns to which pictures are resized: what the config says, or what most have.

    Where the config says one of the two, the other keeps the proportions of the most.
    """
    counts = collections.Counter(sizes)
    rows, columns = max(counts, key=lambda size: (counts[size], size))
    if config.rows is None and config.columns is None and max(rows, columns) > _MOST_SIDE:
        raise ConfigError(
            f"the pictures have up to {rows}×{columns} pixels, too many to read row by row; say "
            "to which size they are reduced, such as --data.rows 64 --data.columns 64"
        )
    if config.rows is not None:
        columns = max(1, round(columns * config.rows / rows))
    elif config.columns is not None:
        rows = max(1, round(rows * config.columns / columns))
    return config.rows or rows, config.columns or columns


def _find(root: Path, given: str) -> list[_File]:
    """All pictures, with their classes; those of one level have no part yet."""
    if not root.is_dir():
        raise DataError(f"{given}: no such directory; {_LAYOUT}")
    parts = {"": root}
    if (root / "train").is_dir():
        apart = next((name for name in _VALIDATION if (root / name).is_dir()), None)
        parts = {"train": root / "train", "test": root / "test"}
        if not parts["test"].is_dir():
            raise DataError(f"{given} holds train/, and no test/; {_LAYOUT}")
        if apart is not None:
            parts["validation"] = root / apart
    found = []
    for part, place in parts.items():
        for label in _visible(os.listdir(place)):
            there = list_pictures(place / label) if (place / label).is_dir() else None
            found += [_File(part, label, path) for path in there or ()]
            if there == []:
                say(f"{place / label} holds no PNG or JPEG file, and is taken for no class")
    classes = {part: {file.label for file in found if file.part == part} for part in parts}
    for label in sorted(set().union(*classes.values())):
        try:
            check_class_names([label], 1)
        except ValueError as error:
            raise DataError(f"{given}: {error}; rename the folder") from error
    for part, labels in classes.items():
        if not labels:
            raise DataError(f"{parts[part]} holds no folder with pictures; {_LAYOUT}")
        if unknown := labels - classes.get("train", labels):
            raise DataError(
                f"{parts[part] / min(unknown)}: train/ has no such class; each class needs "
                "pictures to train on"
            )
    return found


def _visible(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("."))


def _in_order(labels: Iterable[str]) -> list[str]:
    """Names of classes as they are numbered: by number where all are numbers."""
    labels = sorted(labels)
    numbers = all(label.isascii() and label.isdecimal() for label in labels)
    return sorted(labels, key=int) if numbers else labels


def _states(files: Iterable[_File], root: Path) -> Iterator[str]:
    """What changes when a file does."""
    for file in files:
        try:
            status = os.stat(file.path)
        except OSError as error:
            raise DataError(f"picture {file.path}: {error.strerror}; remove the link") from error
        yield f"{os.path.relpath(file.path, root)} {status.st_size} {status.st_mtime_ns}"


def _digest(values: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(f"{value}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _split(files: Sequence[_File], config: DataConfig) -> list[_File]:
    """The pictures with their parts, in the order of the arrays: validation, train, test."""
    root = Path(config.dir).resolve()
    made = []
    for part in ("", "validation", "train", "test"):
        these = [file for file in files if file.part == part]
        labels = [file.label for file in these]
        names = [os.path.relpath(file.path, root) for file in these]
        share = 0.0 if part else config.test_share
        train, test = split_off(labels, names, share, config.split_seed)
        order = range(len(these)) if part == "test" else train
        made += [these[index]._replace(part=part or "train") for index in order]
        made += [these[index]._replace(part="test") for index in test]
    if not any(file.part == "test" for file in made):
        raise DataError(
            f"{config.dir}: each class has one picture, and none is left to test on; give more"
        )
    return made


def _arrays(files: Sequence[_File], names: Sequence[str], config: DataConfig) -> Arrays:
    """Decodes all pictures, and says what was done to them."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        heads = dict(zip(files, _all(pool, _head, files, "Looking"), strict=True))
        sizes = [size for size, _ in heads.values()]
        shape = most_frequent(sizes, config)
        coloured = any(mode for _, mode in heads.values())
        how = config.pictures or "as_is"
        channels = config.channels or (3 if coloured and how == "as_is" else 1)
        images = np.empty((len(files), *shape, channels), np.uint8)

        def decode(task: tuple[int, _File]) -> None:
            index, file = task
            wanted = shape[0], shape[1] * channels
            image = pictures.read(file.path, wanted, how, channels).image
            images[index] = image.reshape(images.shape[1:])

        _all(pool, decode, list(enumerate(files)), "Decoding")
    # Pictures that are grey in a format for colour.
    if config.channels is None and channels == 3 and not np.ptp(images, axis=-1).any():
        images = images[..., :1]
    if images.shape[-1] == 1:
        images = np.ascontiguousarray(images[..., 0])
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[file.label] for file in files])
    labels = labels.astype(np.uint8 if len(names) <= 256 else np.int32)
    images.flags.writeable = labels.flags.writeable = False
    size = sum(file.part != "test" for file in files)
    counts = ", ".join(f"{cut(name)} {labels.tolist().count(i)}" for i, name in enumerate(names))
    colour = "colour" if images.ndim == 4 else "grey"
    kinds = len(set(sizes) | {shape}) - 1
    say(
        f"{config.dir}: {count(size, 'picture')} to train on and {len(files) - size:,} to test on "
        f"({cut(counts)}), {shape[0]}×{shape[1]} pixels in {colour}"
        + (f", resized from {count(kinds, 'other size')}" if kinds else "")
    )
    return Arrays(images[:size], labels[:size], images[size:], labels[size:])


def _all(
    pool: ThreadPoolExecutor, work: Callable[[Any], Any], tasks: Sequence[Any], title: str
) -> list[Any]:
    """What some work gives for each task; raises one `DataError` for all that fail."""

    def attempt(task: Any) -> Any:
        try:
            return work(task)
        except DataError as error:
            return error

    done = pool.map(attempt, tasks)
    shown = track(done, title, total=len(tasks), console=Console(stderr=True))
    results = list(shown)
    problems = [result for result in results if isinstance(result, DataError)]
    if problems:
        more = f" (and {len(problems) - 1:,} more of {len(tasks):,})" if problems[1:] else ""
        raise DataError(f"{problems[0]}, or remove it{more}") from problems[0]
    return results


def _head(file: _File) -> tuple[tuple[int, int], bool]:
    """Rows and columns of a picture, and whether it may be in colour; nothing is decoded."""

    def look(image: Image.Image) -> tuple[tuple[int, int], bool]:
        columns, rows = image.size
        if image.format == "JPEG" and image.getexif().get(_ORIENTATION, 1) > 4:
            rows, columns = columns, rows  # It lies on its side.
        return (rows, columns), not image.mode.startswith(_GREY_MODES)

    return pictures.decode(file.path, look)


def _keep_split(path: Path, files: Sequence[_File], root: Path) -> None:
    """Writes which picture is in which part, in the order of the arrays."""
    try:
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = ((each.part, each.label, os.path.relpath(each.path, root)) for each in files)
            csv.writer(file).writerows([("part", "class", "path"), *rows])
    except OSError:
        return
    say(f"which picture is in which part is written in {path}")
