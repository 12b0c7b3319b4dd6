"""Groups of images from files, in every format and as no file should be."""

import gzip
import io
import tracemalloc

import numpy as np
import pytest
from data_files import TEST_DATA

from rowrnn import files
from rowrnn.data import groups, idx
from rowrnn.errors import DataError

LABELS = np.array([3, 1, 4, 1], np.int32)
WRITERS = [7, 7, 2_147_000_000, 12]


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def idx_of(array):
    return bytes([0, 0, 0x0C, array.ndim]) + np.array(array.shape, ">u4").tobytes() + (
        array.astype(">i4").tobytes()
    )  # fmt: skip


def qmnist(labels, writers):
    table = np.full((len(labels), 8), 99)
    table[:, 0], table[:, 2] = labels, writers
    return idx_of(table)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        "\n".join(map(str, WRITERS)).encode(),
        ("writer\r\n" + "\r\n".join(map(str, WRITERS)) + "\r\n").encode(),
        ("\ufeffwriter\n" + "\n".join(map(str, WRITERS))).encode(),
        ("\ufeff" + "\n".join(map(str, WRITERS))).encode(),
        npy(np.array(WRITERS)),
        npy(np.array(WRITERS, np.uint32)),
        idx_of(np.array(WRITERS)),
        qmnist(LABELS, WRITERS),
        # MNIST has the first of QMNIST's test images, and its training images follow validation.
        qmnist([*LABELS, 5], [*WRITERS, 1]),
        qmnist([5, *LABELS], [1, *WRITERS]),
    ],
)
def test_groups_are_read_from_every_format(tmp_path, content, packed):
    # What the file is, its content says, whatever its name.
    path = tmp_path / "groups"
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    assert groups.read(path, LABELS).tolist() == WRITERS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 entries for 4 images"),
        (b"1\n2\n3\n", "3 entries for 4 images"),
        (b"1\n2\n3\n4\n5\n", "5 entries for 4 images"),
        (b"writer,class\n1,2\n", "line 2 is '1,2'"),
        (b"1\n2\n\n4\n", "line 3 is ''"),
        (b"1\n2\n3\n4.5\n", "line 4 is '4.5'"),
        (b"1\n2\n3\n" + b"9" * 30, "too large"),
        (b"1\n2\n3\n" + b"9" * 5_000, "line 4 is"),
        (b"5\n5\n5\n5\n", "all images are of group 5"),
        (b"\xff\xfe1\x00", "decode"),
        (npy(np.array([1.5] * 4)), "float64"),
        (npy(np.ones((4, 2), int)), "shape (4, 2)"),
        (npy(np.array([True] * 4)), "bool"),
        (npy(np.array(WRITERS))[:-1], "must hold one integer"),
        (npy(np.array([{}] * 4)), "allow_pickle"),
        (idx_of(np.array(WRITERS))[:-1], "must hold one integer"),
        (b"\0\0\x0c\1\xff\xff\xff\xff", "must hold one integer"),
        (b"\0\0\x0c", "begins with 00 00 0c"),
        (b"\0\0\x0d\1\0\0\0\4", "begins with 00 00 0d"),
        (qmnist([*LABELS[:3], 9], WRITERS), "does not have the classes"),
        (qmnist(LABELS[:3], WRITERS[:3]), "does not have the classes"),
        (gzip.compress(b"1\n2\n3\n4\n", mtime=0)[:-9], "cut short"),
    ],
)
def test_what_are_no_groups_is_refused_in_a_line(tmp_path, content, reason):
    path = tmp_path / "groups"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        groups.read(path, LABELS)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert reason in message
    assert "must be" in message or "must hold" in message or "fetch it again" in message
    assert "\n" not in message
    assert refused.value.exit_code == 3


def test_a_file_of_terabytes_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "groups.npy"
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"
    path.write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match="must hold one integer"):
        groups.read(path, LABELS)
    # A small file that becomes a large one.
    path.write_bytes(gzip.compress(bytes(10**7)))
    monkeypatch.setattr(files, "MOST_BYTES", 1_000)
    tracemalloc.start()
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        groups.read(path, LABELS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6
    with pytest.raises(DataError, match="No such file"):
        groups.read(tmp_path / "none", LABELS)
    with pytest.raises(DataError, match="Is a directory"):
        groups.read(tmp_path, LABELS)


def test_the_writers_of_mnist():
    places = TEST_DATA / "qmnist", TEST_DATA / "mnist"
    for directory in places:
        if not directory.is_dir():
            pytest.skip(f"{directory} is not there")
    labels = {
        part: idx.read(places[1] / f"{part}-labels-idx1-ubyte.gz", 1) for part in ("train", "t10k")
    }
    of_training, of_test = (places[0] / f"qmnist-{x}-labels-idx2-int.gz" for x in ("train", "test"))
    test, train = groups.read(of_test, labels["t10k"]), groups.read(of_training, labels["train"])
    assert len(np.unique(test)) == 297
    # Nobody who wrote for the test part wrote for training.
    assert not set(test) & set(train)
    # As rowrnn sets a validation part apart.
    np.testing.assert_array_equal(groups.read(of_training, labels["train"][:5_000]), train[:5_000])
    np.testing.assert_array_equal(groups.read(of_training, labels["train"][5_000:]), train[5_000:])
    with pytest.raises(DataError, match="does not have the classes"):
        groups.read(of_training, labels["t10k"])
