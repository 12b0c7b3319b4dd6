"""Datasets: IDX files, the packaged sample, and TFDS sets prepared from files and from a server."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data_files import encode, originals, random_arrays, registered, write_set
from hypothesis import example, given
from hypothesis import strategies as st

from rowrnn import data
from rowrnn.config import DataConfig
from rowrnn.data import cache, idx, tfds_sets
from rowrnn.errors import ConfigError, DataError

FINGERPRINTS = {
    "mnist": "88d991fdc7ccde887ffc4f71beaebdea7f32713839bb7d725186db364a03b513",
    "fashion_mnist": "c3f4cde13deeccf1ae1f818f2defada1d666f122da5659277eaef7c56986cc50",
}


def parse_by_hand(directory):
    """The oracle: the four arrays by their known header sizes, with nothing checked."""
    for name in idx.FILES:
        content = gzip.decompress((directory / f"{name}.gz").read_bytes())
        if "images" in name:
            count, rows, columns = struct.unpack(">3I", content[4:16])
            yield np.frombuffer(content, np.uint8, offset=16).reshape(count, rows, columns)
        else:
            yield np.frombuffer(content, np.uint8, offset=8)


def fingerprint_by_hand(arrays):
    content = b"".join(f"uint8 {a.shape}\n".encode() + a.tobytes() for a in arrays)
    return hashlib.sha256(content).hexdigest()


def files_below(directory):
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    )


def assert_same_dataset(dataset, arrays, validation_size=0):
    train_images, train_labels, test_images, test_labels = arrays
    images = np.concatenate([dataset.validation.images, dataset.train.images])
    labels = np.concatenate([dataset.validation.labels, dataset.train.labels])
    assert len(dataset.validation.labels) == validation_size
    np.testing.assert_array_equal(images, train_images)
    np.testing.assert_array_equal(labels, train_labels)
    np.testing.assert_array_equal(dataset.test.images, test_images)
    np.testing.assert_array_equal(dataset.test.labels, test_labels)
    assert images.dtype == np.uint8
    assert labels.dtype == dataset.test.labels.dtype == np.int32
    assert dataset.fingerprint == fingerprint_by_hand(arrays)


@contextlib.contextmanager
def serving(directory):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch):
    """No test reads or writes the user's own datasets and caches, or asks a proxy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The original files of a small set that goes by the name kmnist, which has no fingerprint."""
    directory = write_set(tmp_path / "originals")
    entries = registered(directory)
    monkeypatch.setattr(tfds_sets, "_originals", lambda name: entries)
    return directory


@pytest.fixture(scope="module")
def prepared_mnist(tmp_path_factory):
    """Full MNIST, prepared once: its files come from a server, with the checksums of TFDS."""
    source = originals("mnist")
    with pytest.MonkeyPatch.context() as patch, serving(source) as base:
        patch.setenv("no_proxy", "127.0.0.1")
        entries = tfds_sets._originals("mnist")
        served = {f"{base}/{info.filename}": info for info in entries.values()}
        patch.setattr(tfds_sets, "_originals", lambda name: served)
        data_dir = tmp_path_factory.mktemp("tfds")
        assert data.prepare("mnist", str(data_dir)) == data_dir / "mnist" / "3.0.1"
    return data_dir


# IDX files


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_reads_the_original_files(name):
    directory = originals(name)
    dataset = data.load(DataConfig(dataset="idx", dir=str(directory)))
    assert_same_dataset(dataset, list(parse_by_hand(directory)), validation_size=5_000)
    assert dataset.train.images.shape == (55_000, 28, 28)
    assert dataset.test.images.shape == (10_000, 28, 28)
    assert dataset.classes == 10
    assert dataset.fingerprint == FINGERPRINTS[name]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("shape", [(28, 28), (5, 3), (1, 1)])
def test_idx_of_any_shape_packed_or_not(tmp_path, packed, shape):
    arrays = list(random_arrays(shape=shape, classes=13))
    directory = write_set(tmp_path / "set", arrays, packed)
    dataset = data.load(DataConfig(dataset="idx", dir=str(directory), validation_size=7))
    assert_same_dataset(dataset, arrays, validation_size=7)
    assert dataset.classes == 13
    assert not dataset.train.images.flags.writeable


def test_fingerprint_depends_on_every_part_but_not_on_the_split(tmp_path):
    def fingerprint(arrays, **options):
        directory = write_set(tmp_path / "set", arrays)
        return data.load(DataConfig(dataset="idx", dir=str(directory), **options)).fingerprint

    arrays = list(random_arrays())
    seen = {fingerprint(arrays), fingerprint(arrays, validation_size=20)}
    assert len(seen) == 1
    for part in range(4):
        changed = [array.copy() for array in arrays]
        changed[part][-1] ^= 1
        seen.add(fingerprint(changed))
    seen.add(fingerprint([a.reshape(-1, 14, 56) if a.ndim == 3 else a for a in arrays]))
    assert len(seen) == 6


IMAGES = encode(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
DAMAGED = {
    "empty": (b"", "begins with nothing"),
    "wrong magic": (b"\x89PNG" + IMAGES[4:], "begins with 89 50 4e 47"),
    "wrong type": (IMAGES[:2] + b"\x0d" + IMAGES[3:], "00 00 0d 03"),
    "wrong dimensions": (encode(np.zeros(3, np.uint8)), "3 dimensions begins with 00 00 08 03"),
    "cut in the header": (IMAGES[:10], "within its header"),
    "cut in the data": (IMAGES[:-1], "claims 2×3×4 bytes but only 23 follow"),
    "too long": (IMAGES + b"\0", "but more follow"),
    "no images": (encode(np.zeros((0, 28, 28), np.uint8)), "at least one image"),
    "no pixels": (encode(np.zeros((2, 0, 28), np.uint8)), "at least one image"),
    "terabytes": (IMAGES[:4] + b"\xff" * 12 + b"\0" * 4, "but only 4 follow"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("packed", [True, False])
def test_idx_refuses_damaged_files(tmp_path, content, message, packed):
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=message) as caught:
        idx.read(path, 3)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: b"",
        lambda packed: IMAGES,
        lambda packed: packed[:1],
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-1],
        lambda packed: packed[:-8] + bytes(4) + packed[-4:],  # another checksum
        lambda packed: packed[:12] + b"\xff" + packed[13:],
        lambda packed: packed + b"junk",
    ],
    ids=["empty", "plain", "1 byte", "half", "all but 1", "checksum", "damaged", "trailing junk"],
)
def test_idx_refuses_damaged_gzip(tmp_path, change):
    path = tmp_path / "images.gz"
    path.write_bytes(change(gzip.compress(IMAGES)))
    with pytest.raises(DataError, match=r"images\.gz"):
        idx.read(path, 3)


def test_idx_memory_is_bounded_by_the_header_and_by_the_file(tmp_path):
    bomb, claim = tmp_path / "bomb.gz", tmp_path / "claim"
    bomb.write_bytes(gzip.compress(encode(np.zeros(10, np.uint8)) + bytes(100_000_000), 1))
    claim.write_bytes(bytes([0, 0, 8, 3, *[255] * 12, 0, 0, 0, 0]))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more follow"):
            idx.read(bomb, 1)
        with pytest.raises(DataError, match="only 4 follow"):
            idx.read(claim, 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_idx_refuses_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such directory"):
        data.load(DataConfig(dataset="idx", dir=str(tmp_path / "nowhere")))
    directory = write_set(tmp_path / "set")
    for name in idx.FILES:
        packed = directory / f"{name}.gz"
        content = packed.read_bytes()
        packed.unlink()
        with pytest.raises(DataError, match=f"{name}: No such file"):
            idx.read_directory(directory)
        packed.mkdir()
        with pytest.raises(DataError, match=rf"{name}\.gz: Is a directory"):
            idx.read_directory(directory)
        packed.rmdir()
        packed.write_bytes(content)


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        (1, np.zeros(69, np.uint8), "70 train images but 69 train labels"),
        (3, np.zeros(31, np.uint8), "30 test images but 31 test labels"),
        (2, np.zeros((30, 28, 27), np.uint8), "training images are 28×28 but test images 28×27"),
        (3, np.full(30, 10, np.uint8), "test label 10 of image 0: must be from 0 to 9"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, part, array, message):
    arrays = list(random_arrays())
    arrays[part] = array
    directory = write_set(tmp_path / "set", arrays)
    with pytest.raises(DataError, match=message) as caught:
        data.load(DataConfig(dataset="idx", dir=str(directory)))
    assert str(directory) in str(caught.value)


@given(
    content=st.binary(max_size=64)
    | st.builds(
        lambda head, tail: IMAGES[:head] + tail, st.integers(0, 40), st.binary(max_size=40)
    ),
    name=st.sampled_from(["any", "any.gz"]),
    pack=st.booleans(),
    cut=st.integers(0, 100),
)
@example(IMAGES, "any.gz", True, 0)
def test_idx_of_arbitrary_bytes(tmp_path_factory, content, name, pack, cut):
    path = tmp_path_factory.getbasetemp() / name
    stored = gzip.compress(content) if pack else content
    path.write_bytes(stored[: len(stored) - cut] if cut else stored)
    for dimensions in (1, 3):
        with contextlib.suppress(DataError):
            array = idx.read(path, dimensions)
            assert array.dtype == np.uint8
            assert array.ndim == dimensions
            assert encode(array) == (content if pack and name == "any.gz" else path.read_bytes())


# The split


@pytest.mark.parametrize("size", [70, 71, -1])
def test_validation_must_leave_training_images(tmp_path, size):
    directory = write_set(tmp_path / "set")
    config = DataConfig(dataset="idx", dir=str(directory), validation_size=size)
    with pytest.raises(ConfigError, match=rf"data\.validation_size = {size}: .* from 0 to 69"):
        data.load(config)


@pytest.mark.parametrize(("train", "expected"), [(49_999, 0), (50_000, 5_000)])
def test_default_validation_size(tmp_path, train, expected):
    arrays = list(random_arrays(train=train, shape=(1, 1)))
    directory = write_set(tmp_path / "set", arrays, packed=False)
    dataset = data.load(DataConfig(dataset="idx", dir=str(directory)))
    assert_same_dataset(dataset, arrays, expected)


# The packaged sample


def test_sample_is_stratified_and_shuffled():
    dataset = data.load(DataConfig())
    assert dataset.train.images.shape == (4_000, 28, 28)
    assert dataset.test.images.shape == (1_000, 28, 28)
    assert dataset.validation.images.shape == (0, 28, 28)
    for split, count in ((dataset.train, 400), (dataset.test, 100)):
        np.testing.assert_array_equal(np.bincount(split.labels), [count] * 10)
        assert len(np.unique(split.labels[:100])) == 10
    images = np.concatenate([dataset.train.images, dataset.test.images])
    assert len(np.unique(images.reshape(5_000, -1), axis=0)) == 5_000
    assert len(data.load(DataConfig(validation_size=500)).validation.labels) == 500


def test_sample_digits_and_labels_are_those_of_mnist():
    images, labels, *_ = parse_by_hand(originals("mnist"))
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    dataset = data.load(DataConfig())
    for split in (dataset.train, dataset.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert known[image.tobytes()] == label


@pytest.mark.parametrize("name", idx.FILES)
def test_sample_is_verified(tmp_path, monkeypatch, name):
    copy = tmp_path / "package" / "mnist_sample"
    shutil.copytree(Path(data.__file__).parent / "mnist_sample", copy)
    monkeypatch.setattr(data.importlib.resources, "files", lambda package: copy.parent)
    data.load(DataConfig())
    path = copy / f"{name}.gz"
    # Another time stamp in the gzip header: valid in itself, and the same digits.
    path.write_bytes(path.read_bytes()[:4] + b"\1" + path.read_bytes()[5:])
    with pytest.raises(DataError, match=rf"{name}\.gz: checksum mismatch"):
        data.load(DataConfig())


# TFDS sets: full MNIST, through a server


@pytest.mark.slow
def test_mnist_through_tfds_is_the_original_in_order(prepared_mnist):
    dataset = data.load(DataConfig(dataset="mnist", dir=str(prepared_mnist)))
    assert_same_dataset(dataset, list(parse_by_hand(originals("mnist"))), validation_size=5_000)
    assert dataset.classes == 10
    assert dataset.fingerprint == FINGERPRINTS["mnist"]


@pytest.mark.slow
def test_mnist_is_a_standard_tfds_directory(prepared_mnist):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared_mnist / "mnist" / "3.0.1")
    assert builder.info.full_name == "mnist/3.0.1"
    assert builder.info.features is not None
    assert builder.info.features["image"].shape == (28, 28, 1)
    assert builder.info.splits["train"].num_examples == 60_000
    assert files_below(prepared_mnist) == [
        "mnist/3.0.1/dataset_info.json",
        "mnist/3.0.1/features.json",
        "mnist/3.0.1/mnist-test.array_record-00000-of-00001",
        "mnist/3.0.1/mnist-train.array_record-00000-of-00001",
        "mnist/rowrnn-3.0.1.arrays",
    ]


@pytest.mark.slow
def test_second_start_is_fast_and_imports_no_tfds(prepared_mnist):
    script = f"""
import sys, time
from rowrnn import data
from rowrnn.config import DataConfig
best = 9.0
for _ in range(3):
    start = time.process_time()
    dataset = data.load(DataConfig(dataset="mnist", dir={str(prepared_mnist)!r}))
    best = min(best, time.process_time() - start)
assert len(dataset.train.images) == 55_000
assert not {{"tensorflow", "tensorflow_datasets", "jax"}} & set(sys.modules)
print(best)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert float(result.stdout) < 0.5


@pytest.mark.slow
def test_preparing_again_changes_nothing(prepared_mnist):
    before = {path: path.stat().st_mtime_ns for path in prepared_mnist.rglob("*")}
    start = time.perf_counter()
    data.prepare("mnist", str(prepared_mnist))
    assert time.perf_counter() - start < 5
    assert before == {path: path.stat().st_mtime_ns for path in prepared_mnist.rglob("*")}


def test_images_of_another_set_are_refused(tmp_path, small):
    data.prepare("kmnist", str(tmp_path / "tfds"), str(small))
    other = tmp_path / "tfds" / "mnist" / "3.0.1"
    shutil.copytree(tmp_path / "tfds" / "kmnist" / "3.0.1", other)
    for path in other.iterdir():
        path.write_bytes(path.read_bytes().replace(b'"kmnist"', b'"mnist"'))
        path.rename(path.with_name(path.name.replace("kmnist", "mnist")))
    with pytest.raises(DataError, match=r"not those of mnist .* run: rowrnn data prepare mnist"):
        data.load(DataConfig(dataset="mnist", dir=str(tmp_path / "tfds")))
    assert not list(tmp_path.rglob("mnist/*.arrays"))


def test_original_files_have_the_registered_checksums():
    for info in tfds_sets._originals("mnist").values():
        content = (originals("mnist") / info.filename).read_bytes()
        assert hashlib.sha256(content).hexdigest() == info.checksum


def test_fashion_mnist_packed_anew_is_the_original():
    """Debian's package differs from what TFDS registers in the gzip header's time alone."""
    directory = originals("fashion_mnist")
    entries = tfds_sets._originals("fashion_mnist")
    times = {"train": 1504176606, "t10k": 1504176627}
    for info in entries.values():
        content = (directory / info.filename).read_bytes()
        time_stamp = struct.pack("<I", times[info.filename.split("-")[0]])
        content = content[:4] + time_stamp + content[8:]
        assert hashlib.sha256(content).hexdigest() == info.checksum
    arrays = tfds_sets._read_originals("fashion_mnist", entries, directory)
    assert fingerprint_by_hand(arrays) == FINGERPRINTS["fashion_mnist"]


# TFDS sets: a small set, through a directory and through a server


def load_small(data_dir=""):
    return data.load(DataConfig(dataset="kmnist", dir=str(data_dir)))


def test_prepare_from_a_directory(tmp_path, small, capsys):
    path = data.prepare("kmnist", manual_dir=str(small))
    assert path == tmp_path / "default" / "kmnist" / "3.0.1"
    out, err = capsys.readouterr()
    assert out == ""
    assert "Writing" in err
    assert "Reading" in err
    (tmp_path / "default" / "kmnist" / "rowrnn-3.0.1.arrays").unlink()
    assert_same_dataset(load_small(), list(parse_by_hand(small)))
    assert_same_dataset(load_small(), list(parse_by_hand(small)))


def test_default_directory_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=f"{tmp_path}/tensorflow_datasets/kmnist/3.0.1"):
        load_small()


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({}, "run: rowrnn data prepare kmnist (without a network: --manual-dir DIR"),
        ({"dir": "/a b"}, "run: rowrnn data prepare kmnist --data.dir '/a b' (without"),
    ],
)
def test_unprepared_set_names_the_command(config, command):
    with pytest.raises(DataError) as caught:
        data.load(DataConfig(dataset="kmnist", **config))
    assert command in str(caught.value)


def test_an_unprepared_set_is_prepared_from_the_directory_of_its_files(small):
    config = DataConfig(dataset="kmnist", manual_dir=str(small))
    assert_same_dataset(data.load(config), list(parse_by_hand(small)))


def test_prepare_of_another_name_is_refused():
    with pytest.raises(ConfigError, match="must be one of mnist, fashion_mnist, kmnist"):
        data.prepare("mnist_sample")


def test_manual_files_are_verified(tmp_path, small):
    for path in sorted(small.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:4] + b"\1" + content[5:])  # valid, with another time stamp
        with pytest.raises(DataError, match=f"{path.name}: checksum mismatch"):
            data.prepare("kmnist", manual_dir=str(small))
        path.write_bytes(content[:-1])
        with pytest.raises(DataError, match=f"{path.name}: damaged"):
            data.prepare("kmnist", manual_dir=str(small))
        path.unlink()
        with pytest.raises(DataError, match=f"{path.stem}: No such file"):
            data.prepare("kmnist", manual_dir=str(small))
        path.write_bytes(content)
    assert not (tmp_path / "default").exists()


def test_prepare_from_a_server(tmp_path, small, monkeypatch, capsys):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tfds_sets.tempfile, "tempdir", str(temporary))
    with serving(small) as base:
        entries = registered(small, base)
        monkeypatch.setattr(tfds_sets, "_originals", lambda name: entries)
        data.prepare("kmnist")
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err
    assert_same_dataset(load_small(), list(parse_by_hand(small)))
    assert files_below(temporary) == []


def test_manual_files_may_be_unpacked_where_the_content_is_known(small, monkeypatch):
    for path in sorted(small.iterdir()):
        (small / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    with pytest.raises(DataError, match="ubyte: checksum mismatch"):
        data.prepare("kmnist", manual_dir=str(small))
    arrays = list(random_arrays())
    monkeypatch.setitem(tfds_sets._FINGERPRINTS, "kmnist", fingerprint_by_hand(arrays))
    data.prepare("kmnist", manual_dir=str(small))
    assert_same_dataset(load_small(), arrays)


def test_download_takes_little_more_than_it_should(tmp_path, small):
    (tmp_path / "downloads").mkdir()
    with serving(small) as base:
        entries = registered(small, base)
        lengthen(small / "train-labels-idx1-ubyte.gz")
        tfds_sets._download("kmnist", entries, tmp_path / "downloads")
    assert (tmp_path / "downloads" / "train-labels-idx1-ubyte.gz").stat().st_size < 200_000


def other_content(path):
    path.write_bytes(gzip.compress(encode(np.zeros(30, np.uint8))))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path):
    path.write_bytes(path.read_bytes() + bytes(10_000_000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_content, r"t10k-labels-idx1-ubyte\.gz: checksum mismatch"),
        (cut, r"t10k-labels-idx1-ubyte\.gz: damaged"),
        (lengthen, r"t10k-labels-idx1-ubyte\.gz: checksum mismatch"),
        (Path.unlink, r"t10k-labels-idx1-ubyte\.gz: download failed .*404.*--manual-dir DIR"),
    ],
)
def test_server_with_a_wrong_file(tmp_path, small, monkeypatch, change, message):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tfds_sets.tempfile, "tempdir", str(temporary))
    with serving(small) as base:
        entries = registered(small, base)
        monkeypatch.setattr(tfds_sets, "_originals", lambda name: entries)
        change(small / "t10k-labels-idx1-ubyte.gz")
        with pytest.raises(DataError, match=message):
            data.prepare("kmnist")
    assert files_below(temporary) == []
    assert not (tmp_path / "default").exists()


def test_no_server(small):
    # The small set is registered at a port where nothing listens.
    with pytest.raises(DataError, match=r"download failed .*refused.*--manual-dir DIR"):
        data.prepare("kmnist")


def test_prepare_into_a_place_that_cannot_be_written(tmp_path, small):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        data.prepare("kmnist", str(tmp_path / "file"), str(small))


# Damage after a set was prepared


@pytest.fixture
def prepared(tmp_path, small):
    return data.prepare("kmnist", manual_dir=str(small))


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    # In the records: the file is padded to a multiple of 64 KiB.
    content[2_000] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("change", [cut_in_half, flip_a_byte, Path.unlink])
@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_records(prepared, change, split):
    kept = prepared.parent / "rowrnn-3.0.1.arrays"
    before = kept.read_bytes()
    change(prepared / f"kmnist-{split}.array_record-00000-of-00001")
    with pytest.raises(DataError, match=r"kmnist/3\.0\.1.* rowrnn data prepare kmnist"):
        load_small()
    assert kept.read_bytes() == before
    with pytest.raises(DataError, match="delete the directory"):
        data.prepare("kmnist")


def test_damaged_description(prepared):
    (prepared / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="dataset kmnist is damaged"):
        load_small()


def test_set_prepared_in_another_format(prepared):
    for path in prepared.glob("*array_record*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    with pytest.raises(DataError, match="holds no ArrayRecord files"):
        load_small()


# The cache


def decoded(monkeypatch):
    """Counts how often a prepared set is decoded."""
    calls = []
    decode = tfds_sets._decode

    def counting(*args):
        calls.append(args)
        return decode(*args)

    monkeypatch.setattr(tfds_sets, "_decode", counting)
    return calls


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content.replace(b"[70, 28, 28]", b"[71, 28, 28]"),
        lambda content: content.replace(b"[70, 28, 28]", b"[70, 28, 9" + b"9" * 99 + b"]"),
        lambda content: content.replace(b'"shapes"', b'"sharks"'),
        lambda content: b"[]\n",
        lambda content: os.urandom(1000),
        lambda content: content.replace(b'"fingerprint": "', b'"fingerprint": "0'),
    ],
    ids=["empty", "cut", "flipped", "shape", "huge", "key", "list", "random", "fingerprint"],
)
def test_damaged_cache_is_made_anew(prepared, small, monkeypatch, change):
    kept = prepared.parent / "rowrnn-3.0.1.arrays"
    before = kept.read_bytes()
    kept.write_bytes(change(before))
    calls = decoded(monkeypatch)
    assert_same_dataset(load_small(), list(parse_by_hand(small)))
    assert len(calls) == 1
    assert kept.read_bytes() == before
    assert_same_dataset(load_small(), list(parse_by_hand(small)))
    assert len(calls) == 1


def test_cache_of_other_files_is_not_used(prepared, monkeypatch):
    calls = decoded(monkeypatch)
    os.utime(prepared / "kmnist-test.array_record-00000-of-00001", ns=(1, 1))
    load_small()
    load_small()
    assert len(calls) == 1


def test_cache_of_a_read_only_set_lies_with_the_user(tmp_path, prepared, small, monkeypatch):
    kept = prepared.parent / "rowrnn-3.0.1.arrays"
    kept.unlink()
    kept.mkdir()  # Even root cannot replace a directory by a file.
    calls = decoded(monkeypatch)
    load_small()
    assert_same_dataset(load_small(), list(parse_by_hand(small)))
    assert len(calls) == 1
    assert [Path(name).parent.name for name in files_below(tmp_path / "cache")] == ["rowrnn"]


def test_without_any_place_for_a_cache(tmp_path, prepared, small, monkeypatch):
    kept = prepared.parent / "rowrnn-3.0.1.arrays"
    kept.unlink()
    kept.mkdir()
    (tmp_path / "cache").write_bytes(b"")
    before = files_below(tmp_path)
    assert_same_dataset(load_small(), list(parse_by_hand(small)))
    assert files_below(tmp_path) == before


def test_cache_is_written_whole_or_not_at_all(prepared, monkeypatch):
    arrays, digest = cache.load(prepared) or pytest.fail("no cache")
    before = files_below(prepared.parent)

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        cache.save(prepared, arrays, digest)
    assert files_below(prepared.parent) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (encode(np.zeros((2, 3, 3), ">i4"), code=0x0C), "int32 values in 3 dimensions"),
        (encode(np.zeros((2, 3, 3), ">f4"), code=0x0D), "float32 values in 3 dimensions"),
        (encode(np.zeros((2, 3), np.uint8)), "unsigned byte values in 2 dimensions"),
        (b"<!DOCTYPE html><html>404", "like a web page"),
        (b"\n<html>", "like a web page"),
        (b"PK\x03\x04....", "like a zip or npz file"),
        (gzip.compress(b"x", mtime=0), "like a gzip file, whose name must end in .gz"),
        (b"\x93NUMPY", "like a NumPy file"),
    ],
)
def test_what_lies_in_the_place_of_an_idx_file_is_named(tmp_path, content, says):
    directory = write_set(tmp_path / "set", packed=False)
    (directory / idx.FILES[0]).write_bytes(content)
    with pytest.raises(DataError, match=f"{idx.FILES[0]}: begins with .*, {says}; an IDX file"):
        data.load(DataConfig(dataset="idx", dir=str(directory)))


def test_where_a_file_is_missing_it_is_said_what_lies_there(tmp_path):
    (tmp_path / "train-images.idx3-ubyte").write_bytes(b"")
    (tmp_path / "mnist.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds mnist\.npz, train-images\.idx3-ubyte, and must"):
        data.load(DataConfig(dataset="idx", dir=str(tmp_path)))
