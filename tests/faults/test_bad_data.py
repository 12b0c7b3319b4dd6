"""Damaged data: refused with the file named, or read right; and right again once it is repaired."""

import contextlib
import gzip
import hashlib
import json
import os
import random
import shutil
import struct
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import data_files
import numpy as np
import pytest
from in_process import command, here

from rowrnn import data
from rowrnn.checks import fingerprint
from rowrnn.config import DataConfig
from rowrnn.data import idx, tfds_sets
from rowrnn.data.arrays import Arrays
from rowrnn.errors import DataError

SEED = 9


def encode(array):
    """IDX by its definition."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def random_arrays():
    """A small set, as its four files hold it."""
    rng = np.random.default_rng(SEED)
    for size in (70, 30):
        yield rng.integers(0, 256, (size, 28, 28), np.uint8)
        labels = rng.integers(0, 10, size, np.uint8)
        labels[0] = 9
        yield labels


ARRAYS = list(random_arrays())


def is_right(dataset):
    """Whether a data set without a validation part is the small set."""
    splits = (dataset.train, dataset.test)
    found = [array for split in splits for array in (split.images, split.labels)]
    return all(np.array_equal(one, other) for one, other in zip(found, ARRAYS, strict=True))


def write_set(directory, packed):
    directory.mkdir()
    for name, array in zip(idx.FILES, ARRAYS, strict=True):
        if packed:
            (directory / f"{name}.gz").write_bytes(gzip.compress(encode(array), mtime=0))
        else:
            (directory / name).write_bytes(encode(array))
    return directory


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch):
    """No test reads or writes the user's own data sets and caches, or asks a server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))

    def refuse(*_, **__):
        raise AssertionError("nothing is downloaded unasked")

    monkeypatch.setattr(tfds_sets.urllib.request, "urlopen", refuse)


# What can happen to any file. Each takes its path and a source of randomness.


def empty(path, rng):
    path.write_bytes(b"")


def cut(path, rng):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def flip_and_keep_the_time(path, rng):
    """As a disk does it by itself."""
    before = path.stat()
    flip(path, rng)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def overwrite(path, rng):
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    content[start : start + 64] = rng.randbytes(len(content[start : start + 64]))
    path.write_bytes(content)


def randomize(path, rng):
    path.write_bytes(rng.randbytes(500))


def lengthen(path, rng):
    path.write_bytes(path.read_bytes() + rng.randbytes(500))


def delete(path, rng):
    path.unlink()


def make_directory(path, rng):
    path.unlink()
    path.mkdir()


def make_pipe(path, rng):
    path.unlink()
    os.mkfifo(path)


def make_link(path, rng):
    """To a device without an end, to nothing, to itself."""
    path.unlink()
    path.symlink_to(rng.choice(["/dev/zero", "nowhere", path.name]))


ANY_FILE = (empty, cut, flip, overwrite, randomize, lengthen, delete, make_directory, make_pipe,
            make_link)  # fmt: skip


# What can be wrong in an IDX file.


def rewrite(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def content_of(path):
    content = path.read_bytes()
    return bytearray(gzip.decompress(content) if path.suffix == ".gz" else content)


def wrong_magic(path, rng):
    content = content_of(path)
    content[rng.randrange(4)] ^= 1 << rng.randrange(8)
    rewrite(path, content)


def wrong_shape(path, rng):
    content = content_of(path)
    content[rng.randrange(4, 4 + 4 * content[3])] ^= 1 << rng.randrange(8)
    rewrite(path, content)


def wrong_count(path, rng):
    """The file is sound, and has fewer or more entries than the one it belongs to."""
    array = ARRAYS[index_of(path)]
    count = rng.choice([1, len(array) - 1, len(array) + 1])
    rewrite(path, encode(np.resize(array, (count, *array.shape[1:]))))


def wrong_size_of_images(path, rng):
    array = ARRAYS[index_of(path)]
    if array.ndim == 1:
        return wrong_count(path, rng)
    return rewrite(path, encode(np.ascontiguousarray(array[:, : rng.randrange(1, 28)])))


def label_out_of_range(path, rng):
    """In the test labels, above all training labels, which say how many classes there are."""
    path = path.with_name(idx.FILES[3] + path.suffix)
    content = content_of(path)
    content[rng.randrange(8, len(content))] = rng.randrange(10, 256)
    rewrite(path, content)


def other_kind(path, rng):
    """Labels for images, or images for labels."""
    array = ARRAYS[(index_of(path) + 1) % 4]
    rewrite(path, encode(array))


def not_packed(path, rng):
    """A plain file under a packed one's name, or the reverse."""
    content = bytes(content_of(path))
    path.write_bytes(content if path.suffix == ".gz" else gzip.compress(content))


IDX_FILE = (wrong_magic, wrong_shape, wrong_count, wrong_size_of_images, label_out_of_range,
            other_kind, not_packed)  # fmt: skip


def other_content(path, rng):
    """A sound file in which one value is another one."""
    content = content_of(path)
    content[rng.randrange(16, len(content))] ^= 1
    rewrite(path, content)


def index_of(path):
    return idx.FILES.index(path.name.removesuffix(".gz"))


def faults_in(kinds, paths, count, rng):
    """So many faults, each kind as often as the others, each at any of the paths."""
    for i in range(count):
        yield kinds[i % len(kinds)], rng.choice(paths)


@contextlib.contextmanager
def damaged(path, fault, rng):
    """A directory with a fault in one of its files, and as it was again after that."""
    kept = path.parent.with_name(path.parent.name + ".kept")
    shutil.copytree(path.parent, kept)
    fault(path, rng)
    try:
        yield
    finally:
        shutil.rmtree(path.parent)
        kept.rename(path.parent)


def check_message(error, path, about):
    """One line that begins with the file, or with the directory where two files do not fit."""
    message = str(error)
    # A label that is out of range is one of the test labels, whatever the path.
    names = (path.name.removesuffix(".gz"), idx.FILES[3], f"{path.parent}: ")
    assert message.startswith(str(path.parent)), about
    assert any(name in message for name in names), about
    assert "\n" not in message, about


@pytest.mark.row(9, 68, 120)
def test_damaged_idx_files_are_named(tmp_path, count, record):
    """The four IDX files, packed or not: DataError with the file, or the right arrays."""
    rng = random.Random(SEED)
    directories = [write_set(tmp_path / str(packed), packed) for packed in (True, False)]
    paths = [path for directory in directories for path in sorted(directory.iterdir())]
    refused = Counter()
    for fault, path in faults_in(ANY_FILE + IDX_FILE, paths, count, rng):
        if path.suffix != ".gz" and fault in (flip, overwrite):
            fault = wrong_magic  # Nothing can tell one image from another.
        config = DataConfig(dataset="idx", dir=str(path.parent))
        about = f"seed {SEED}: {fault.__name__} of {path}"
        with damaged(path, fault, rng):
            try:
                assert is_right(data.load(config)), about
            except DataError as error:
                refused[fault.__name__] += 1
                check_message(error, path, f"{about}: {error}")
        assert is_right(data.load(config)), about
    # What may do no harm: a bit in the header of gzip that tells the time.
    assert sum(refused.values()) >= 0.9 * count
    record["refused"] = dict(refused)


@pytest.fixture
def manual(tmp_path, monkeypatch):
    """The original files of a small set that goes by the name kmnist, with their checksums."""
    directory = write_set(tmp_path / "originals", packed=True)
    entries = {
        f"http://127.0.0.1:1/{path.name}": SimpleNamespace(
            size=path.stat().st_size,
            checksum=hashlib.sha256(path.read_bytes()).hexdigest(),
            filename=path.name,
        )
        for path in sorted(directory.iterdir())
    }
    monkeypatch.setattr(tfds_sets, "_originals", lambda name: entries)
    return directory


@pytest.mark.row(9, 36, 60)
def test_damaged_original_files_are_named_and_nothing_is_prepared(tmp_path, manual, count, record):
    """Files for manual_dir that are not the registered ones: refused, and nothing is written."""
    rng = random.Random(SEED)
    target = tmp_path / "tfds"
    config = DataConfig(dataset="kmnist", dir=str(target), manual_dir=str(manual))
    refused = Counter()
    kinds = (*ANY_FILE, *IDX_FILE, other_content)
    for fault, path in faults_in(kinds, sorted(manual.iterdir()), count, rng):
        with damaged(path, fault, rng):
            with pytest.raises(DataError) as caught:
                data.load(config)
            check_message(caught.value, path, f"seed {SEED}: {fault.__name__}: {caught.value}")
        refused[fault.__name__] += 1
        assert not target.exists()
    assert is_right(data.load(config))
    record["refused"] = dict(refused)


@pytest.mark.row(9, 36, 80)
def test_a_prepared_set_damaged_after_the_fact_is_named(tmp_path, manual, count, record):
    """Records and descriptions of a prepared set, with and without a cache: named, or right."""
    rng = random.Random(SEED)
    path = data.prepare("kmnist", str(tmp_path / "tfds"), str(manual))
    cache = path.parent / "rowrnn-3.0.1.arrays"
    config = DataConfig(dataset="kmnist", dir=str(tmp_path / "tfds"))
    names = sorted(file.name for file in path.iterdir())
    seen = Counter()
    kinds = (*ANY_FILE, flip_and_keep_the_time, other_records)
    for i, (fault, file) in enumerate(faults_in(kinds, [path / n for n in names], count, rng)):
        about = f"seed {SEED}, fault {i}: {fault.__name__} of {file.name}"
        if rng.random() < 0.5:
            cache.unlink(missing_ok=True)
        with damaged(file, fault, rng):
            try:
                assert is_right(data.load(config)), about
                message = ""
            except DataError as error:
                message = str(error)
        seen[f"{fault.__name__}, {'refused' if message else 'harmless'}"] += 1
        if message:
            assert message.startswith(str(path)), about
            assert "run: rowrnn data prepare kmnist" in message, about
            if file.suffix != ".json" and fault is not other_records:
                assert file.name in message, f"{about}: {message}"
        assert is_right(data.load(config)), about
    record["seen"] = dict(seen)


def other_records(path, rng):
    """The records of the other part under this one's name."""
    other = path.name.replace("train", "t@st").replace("test", "train").replace("t@st", "test")
    path.write_bytes(path.with_name(other).read_bytes())


@pytest.mark.row(9, 24, 40)
def test_a_damaged_cache_is_made_anew(tmp_path, manual, count, record):
    """Whatever lies where the decoded arrays are kept: the right arrays, and kept again."""
    rng = random.Random(SEED)
    path = data.prepare("kmnist", str(tmp_path / "tfds"), str(manual))
    cache = path.parent / "rowrnn-3.0.1.arrays"
    before = cache.read_bytes()
    config = DataConfig(dataset="kmnist", dir=str(tmp_path / "tfds"))
    seen = Counter()
    for fault, _ in faults_in((*ANY_FILE, claim_more, of_other_files), [cache], count, rng):
        about = f"seed {SEED}: {fault.__name__}"
        fault(cache, rng)
        tracemalloc.start()
        assert is_right(data.load(config)), about
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000_000, about
        assert is_right(data.load(config)), about
        if cache.is_dir():  # Then it is kept in the user's cache directory.
            cache.rmdir()
            data.load(config)
            shutil.rmtree(tmp_path / "cache")
            data.load(config)
        seen[fault.__name__] += 1
        cache.unlink()
        assert is_right(data.load(config)), about
        assert cache.read_bytes() == before, about
    record["seen"] = dict(seen)


def claim_more(path, rng):
    """Shapes of terabytes or of less than nothing, or gigabytes that no shape tells of."""
    content = path.read_bytes()
    shape = rng.choice([b"[70, 28, 28]", b"[70, 28, 9000000]", b"[70, 28, -1]"])
    path.write_bytes(content.replace(b"[70, 28, 28]", shape))
    os.truncate(path, 2**31)


def of_other_files(path, rng):
    """A sound cache of files that were there before."""
    arrays = Arrays(*(9 - array if array.ndim == 1 else 255 - array for array in ARRAYS))
    header = json.loads(path.read_bytes().partition(b"\n")[0])
    header["source"][0][2] -= 1
    header["fingerprint"] = fingerprint(arrays)
    content = b"".join(array.tobytes() for array in arrays)
    path.write_bytes(json.dumps(header).encode() + b"\n" + content)


def test_the_command_line_exits_with_3(tmp_path):
    """Of each way to the data."""
    directory = write_set(tmp_path / "set", packed=True)
    labels = directory / "train-labels-idx1-ubyte.gz"
    other_kind(labels, random.Random(SEED))
    idx_set = ["train", "--data.dataset=idx", f"--data.dir={directory}"]
    manual = ["data", "prepare", "mnist", f"--manual-dir={directory}", "--data.dir=tfds"]
    unprepared = ["train", "--data.dataset=mnist", "--data.dir=tfds"]
    for arguments, says in (
        (idx_set, str(labels)),
        (manual, str(labels)),
        (unprepared, "rowrnn data prepare mnist --data.dir tfds"),
    ):
        _, err = here(*arguments, cwd=tmp_path, code=3)
        assert says in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "tfds").exists()
    assert not (tmp_path / "runs").exists()


def of_labels(train, test, images=None):
    """Four arrays with these labels, in turn, and images at random or all of one kind."""
    rng = np.random.default_rng(0)
    for labels, count in ((train, 300), (test, 50)):
        yield (
            rng.integers(0, 256, (count, 28, 28), np.uint8)
            if images is None
            else (np.full((count, 28, 28), images, np.uint8))
        )
        yield np.resize(np.array(labels, np.uint8), count)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (of_labels([0], [0]), "all labels are 0, and there is nothing to tell apart"),
        pytest.param(
            of_labels([0, 1, 2], [0, 1]), "No test image is of class 2", marks=pytest.mark.slow
        ),
        pytest.param(
            of_labels([0, 1, 3], [0, 1, 3]),
            "no training image has the label 2",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            of_labels(range(1, 27), range(1, 27)),
            "are labels from 1 to 26, as in EMNIST's letters?",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            of_labels([0, 1], [0, 1], images=7),
            "all training images are alike",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_data_that_teaches_nothing_is_told_and_all_commands_answer(tmp_path, arrays, says):
    place = data_files.write_set(tmp_path / "data", list(arrays))
    run = tmp_path / "run"
    code, _, err = command(
        "train", "--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=50",
        "--train.examples=301", "--train.display=none", "--data.dataset=idx", f"--data.dir={place}",
        f"--run-dir={run}",
    )  # fmt: skip
    assert code == 0, err
    assert err.count(f"rowrnn: warning: data {place}: ") == (not says.startswith("No test"))
    err += command("eval", run)[1]
    assert says in err
    code, out, _ = command("eval", run, "--json")
    assert code == 0
    assert "nan" not in out.lower()
    images = place / "t10k-images-idx3-ubyte.gz"
    for words in (["predict", run, images], ["read", run, "0"], ["report", run],
                  ["export", run, "--to", tmp_path / "export"]):  # fmt: skip
        code, out, err = command(*words, "--json")
        assert code == 0, (words, err)
        json.loads(out.splitlines()[-1], parse_constant=pytest.fail)
