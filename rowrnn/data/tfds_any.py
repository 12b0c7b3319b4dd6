"""Any set of images with one label each that TFDS has prepared as ArrayRecord.

What is in it, its description says, which is JSON: TFDS itself is loaded only to decode it, and
TensorFlow never. Examples keep the order in which they are stored. The images of EMNIST lie on
their side in its files, and are turned upright, as its authors say.
"""

import dataclasses
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from rowrnn import files
from rowrnn.checks import check_class_names, fingerprint
from rowrnn.config import DataConfig
from rowrnn.data import cache, folder, pictures
from rowrnn.data.arrays import Arrays, Loaded, check, read_class_names
from rowrnn.errors import DataError

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_SETTINGS = ("rows", "columns", "channels", "test_share", "split_seed")


def root(data_dir: str) -> Path:
    """The TFDS data directory; empty for ``TFDS_DATA_DIR`` or ~/tensorflow_datasets."""
    place = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"data directory {place}: {error} Give one in data.dir, or in TFDS_DATA_DIR"
        ) from error


class _Described(NamedTuple):
    """What the description of a set says."""

    image: str
    label: str
    shape: tuple[int, ...]
    """-1 where it differs from image to image."""
    names: tuple[str, ...]
    sizes: Mapping[str, int]
    """How many examples each split has."""


def load(config: DataConfig) -> Loaded:
    """The set that a config names ``tfds:NAME``, ``tfds:NAME/CONFIG`` or with ``:VERSION`` behind.

    A validation part comes first, as `Loaded` says; without a test part it is the test part.
    Raises `DataError` where the set is not prepared, damaged or of another kind.
    """
    name, _, version = config.dataset.removeprefix("tfds:").partition(":")
    directory = _find(root(config.dir) / name, name, version)
    if not any(directory.glob("*.array_record*")):
        raise DataError(
            f"{directory} holds no ArrayRecord files, which is what can be read without "
            f"TensorFlow; {how_to_prepare(name)}"
        )
    try:
        described = _describe(directory)
        channels = config.channels or (1 if described.shape[2] == 1 else 3)
        config = dataclasses.replace(config, channels=channels)
        settings = [getattr(config, name) for name in _SETTINGS]
        state = [settings, cache.state(directory)]
        cached = cache.load(directory, state)
        if cached is None:
            arrays = _decode(directory, described, config, channels)
            cached = arrays, fingerprint(arrays)
            cache.save(directory, *cached, state)
    except DataError:
        raise
    except Exception as error:
        # Damaged files raise whatever ArrayRecord, protobuf or Pillow stumble over.
        raise DataError(
            f"{directory}: the set is damaged ({type(error).__name__}: {error}); delete the "
            f"directory, and {how_to_prepare(name)}"
        ) from error
    classes = len(described.names)
    check(cached[0], str(directory), classes)
    validation = described.sizes.get("validation") if described.sizes.get("test") else None
    return Loaded(*cached, classes, described.names, validation)


def how_to_prepare(name: str) -> str:
    """How TFDS, with TensorFlow, prepares a set so that it can be read here."""
    return (
        "prepare it with TensorFlow and tfds.builder("
        f"{name!r}, file_format='array_record').download_and_prepare()"
    )


def _find(place: Path, name: str, version: str) -> Path:
    """The directory of a version of a set, the newest where none is said."""
    try:
        found = sorted(path.name for path in place.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        found = []
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}") from error
    versions = [each for each in found if _VERSION.fullmatch(each)]
    if version in versions:
        return place / version
    if versions and not version:
        return place / max(versions, key=lambda each: [int(part) for part in each.split(".")])
    if found and not versions:
        raise DataError(f"tfds:{name}: say which, such as tfds:{name}/{found[0]}")
    raise DataError(
        f"dataset tfds:{name} is not prepared in {place / (version or 'VERSION')}; "
        f"{how_to_prepare(name)}"
    )


def _describe(directory: Path) -> _Described:
    """What ``features.json`` and ``dataset_info.json`` say; raises any error where they are bad."""
    features = files.read_json(directory / "features.json")["featuresDict"]["features"]
    kinds: dict[str, list[str]] = {"image": [], "classLabel": []}
    for key, feature in features.items():
        for kind in kinds.keys() & feature.keys():
            kinds[kind].append(key)
    if any(len(keys) != 1 for keys in kinds.values()):
        raise DataError(
            f"{directory}: its examples hold {', '.join(features)}; a set that can be learned has "
            "one image and one class label"
        )
    (image,), (label,) = kinds["image"], kinds["classLabel"]
    about = features[image]["image"]
    if about["dtype"] != "uint8":
        raise DataError(f"{directory}: its images are {about['dtype']}, and must be uint8")
    shape = tuple(int(side) for side in about["shape"]["dimensions"])
    classes = int(features[label]["classLabel"]["numClasses"])
    names = read_class_names(directory, f"{label}.labels.txt") or tuple(map(str, range(classes)))
    check_class_names(names, classes)
    splits = files.read_json(directory / "dataset_info.json")["splits"]
    sizes = {each["name"]: sum(map(int, each.get("shardLengths", []))) for each in splits}
    if not sizes.get("train"):
        raise DataError(f"{directory} has the parts {', '.join(sizes)}, and none is train")
    return _Described(image, label, shape, names, sizes)


def _decode(directory: Path, described: _Described, config: DataConfig, channels: int) -> Arrays:
    """Reads every example of its parts."""
    import tensorflow_datasets as tfds

    for path in sorted(directory.iterdir()):
        files.open_plain(path).close()  # TFDS would wait for a pipe to be written to.
    builder: Any = tfds.builder_from_directory(directory)
    parts = [part for part in ("validation", "train", "test") if described.sizes.get(part)]
    if "test" not in parts:
        parts = sorted(parts)  # The validation part, where there is one, comes last: to test on.
    decoders = {described.image: tfds.decode.SkipDecoding()}
    sources = [builder.as_data_source(part, decoders=decoders) for part in parts]
    for part, source in zip(parts, sources, strict=True):
        check_length(source, directory.glob(f"*-{part}.array_record*"))
    rows, columns, _ = described.shape
    shape = rows, columns
    if -1 in shape or config.rows or config.columns:
        sizes = (_size(record[described.image]) for record in _each(sources))
        shape = folder.most_frequent(sizes, config)
    count = sum(map(len, sources))
    images = np.empty((count, *shape, channels), np.uint8)
    labels = np.empty(count, np.uint8 if len(described.names) <= 256 else np.int32)
    shown = track(_each(sources), "Reading", total=count, console=Console(stderr=True))
    for index, record in enumerate(shown):
        with Image.open(io.BytesIO(record[described.image])) as image:
            images[index] = pictures.as_is(image, shape, channels).reshape(images.shape[1:])
        labels[index] = record[described.label]
    if directory.parts[-3] == "emnist":
        images = images.swapaxes(1, 2)
    if channels == 1:
        images = images[..., 0]
    images = np.ascontiguousarray(images)
    if len(parts) == 1:
        numbers = [str(index) for index in range(count)]
        train, test = folder.split_off(
            labels.astype(str).tolist(), numbers, config.test_share, config.split_seed
        )
        arrays = Arrays(images[train], labels[train], images[test], labels[test])
    else:
        size = count - len(sources[-1])
        arrays = Arrays(images[:size], labels[:size], images[size:], labels[size:])
    for array in arrays:
        array.flags.writeable = False
    return arrays


def _each(sources: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """All examples, read by the thousand."""
    for source in sources:
        for start in range(0, len(source), 1000):
            yield from source.__getitems__(range(start, min(start + 1000, len(source))))


def _size(content: bytes) -> tuple[int, int]:
    """Rows and columns of a picture."""
    with Image.open(io.BytesIO(content)) as image:
        return image.height, image.width


def check_length(source: Any, paths: Iterable[Path]) -> None:
    """Raises `ValueError` unless the files hold the records that the description tells of."""
    from array_record.python.array_record_module import ArrayRecordReader

    found = sum(ArrayRecordReader(str(path)).num_records() for path in paths)
    if found != len(source):
        raise ValueError(f"{found} records, not {len(source)}")
