"""Datasets of arrays: `Dataset.from_arrays`, and ``npz`` files of them."""

import jax
import numpy as np
import pytest
from data_files import random_arrays, write_set

from rowrnn import Dataset, data
from rowrnn.config import DataConfig
from rowrnn.errors import ConfigError, DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5), np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])


def made(images=IMAGES, labels=LABELS, **options):
    return Dataset.from_arrays((images, labels), (images[:3], labels[:3]), **options)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        IMAGES[..., None],
        IMAGES.astype(np.int64),
        IMAGES.astype(np.float64),
        IMAGES.astype(np.float32) / 255,
        IMAGES / 255,
        IMAGES.tolist(),
    ],
    ids=["uint8", "N,T,F,1", "int64", "0 to 255", "0 to 1", "float64 0 to 1", "lists"],
)
def test_pixels_of_every_kind_become_uint8(images, capsys):
    dataset = made(images)
    np.testing.assert_array_equal(dataset.train.images, IMAGES)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int32
    assert dataset.fingerprint == made().fingerprint
    said = "and are taken times 255" in capsys.readouterr().err
    assert said == (np.asarray(images).max() <= 1)


def test_colour_is_read_row_by_row():
    images = np.random.default_rng(1).integers(0, 256, (6, 4, 5, 3), np.uint8)
    dataset = made(images)
    assert (dataset.channels, dataset.train.images.shape) == (3, (6, 4, 15))
    np.testing.assert_array_equal(dataset.train.images.reshape(images.shape), images)
    # Wider images in grey are other data.
    assert dataset.fingerprint != made(images.reshape(6, 4, 15)).fingerprint


@pytest.mark.parametrize(
    ("labels", "names", "numbers", "class_names"),
    [
        (LABELS.astype(np.uint8), None, LABELS, ()),
        (LABELS.astype(np.int64)[:, None], ["a", "b", "c"], LABELS, ("a", "b", "c")),
        (np.array(["cat", "dog", "ant"])[LABELS], None, [1, 2, 0, 0, 2, 1], ("ant", "cat", "dog")),
        (list("xyzzyx"), ["z", "y", "x"], [2, 1, 0, 0, 1, 2], ("z", "y", "x")),
        (np.array(list("xyzzyx"), object), None, LABELS, ("x", "y", "z")),
    ],
)
def test_labels_of_every_kind_become_numbers(labels, names, numbers, class_names):
    dataset = made(labels=labels, class_names=names)
    np.testing.assert_array_equal(dataset.train.labels, numbers)
    assert dataset.class_names == class_names
    assert dataset.classes == 3


def test_the_same_images_as_idx_have_the_same_fingerprint(tmp_path):
    arrays = list(random_arrays())
    one = data.load(DataConfig("idx", str(write_set(tmp_path / "set", arrays))))
    assert Dataset.from_arrays(arrays[:2], arrays[2:]).fingerprint == one.fingerprint


def test_arrays_are_copied():
    images = IMAGES.copy()
    dataset = made(images)
    images[:] = 0
    np.testing.assert_array_equal(dataset.train.images, IMAGES)
    assert not dataset.train.images.flags.writeable


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (IMAGES / 16.0, LABELS, {}, r"from 0 to 15.*take np.round\(255 / 15"),
        (IMAGES - 300.0, LABELS, {}, "must be uint8, or in all parts floats from 0 to 1"),
        (IMAGES * np.nan, LABELS, {}, "must be uint8.*; not all are finite"),
        (IMAGES + np.inf, LABELS, {}, "not all are finite"),
        (
            np.resize(np.int8([-128, 127]), IMAGES.shape),
            LABELS,
            {},
            r"255 / 255 \* \(images - -128",
        ),
        (IMAGES.astype(int) + 10, LABELS, {}, "must be uint8"),
        (IMAGES > 0, LABELS, {}, "images are bool, and must be uint8"),
        (IMAGES.astype(str), LABELS, {}, "must be uint8"),
        (IMAGES.astype(complex), LABELS, {}, "must be uint8"),
        (IMAGES[0], LABELS, {}, "train images are 4×5, and must be N×T×F or"),
        (IMAGES[..., None].repeat(4, 3), LABELS, {}, "train images are 6×4×5×4"),
        (IMAGES[:0], LABELS[:0], {}, "train images are 0×4×5"),
        (IMAGES, LABELS[:5], {}, "train labels are 5 of 6 images"),
        (IMAGES, np.eye(3)[LABELS], {}, r"take labels.argmax\(axis=1\)"),
        (IMAGES, LABELS - 1, {}, "labels are from -1 to 1"),
        (IMAGES, LABELS, {"class_names": ["a", "b"]}, "labels are from 0 to 2, and must be from 0"),
        (IMAGES, LABELS, {"class_names": ["a", "b", "b"]}, "2 different ones"),
        (IMAGES, LABELS, {"class_names": ["a", "b", "\n"]}, "must be a line of 1 to 100"),
        (IMAGES, LABELS / 2, {}, "labels are float64, and must be integers or strings"),
        (IMAGES, list("abccba"), {"class_names": ["a", "b"]}, "label 'c': must be one of those"),
        (IMAGES, LABELS, {"name": "../x"}, "name = '../x': must be up to 60 letters"),
        (IMAGES, LABELS, {"validation": (IMAGES[:, :3], LABELS)}, "all parts must be alike"),
        (IMAGES, LABELS, {"validation": (IMAGES / 255, LABELS)}, "in all parts"),
        (IMAGES, LABELS, {"validation": IMAGES}, "must be \\(images, labels\\)"),
        (np.ma.masked_array(IMAGES, IMAGES > 3), LABELS, {}, "train are masked here and there"),
        (IMAGES, np.ma.masked_array(LABELS, LABELS > 1), {}, "train are masked here and there"),
        (jax.random.split(jax.random.key(0), 6), LABELS, {}, "train are no array: "),
        (IMAGES, LABELS, {"class_names": 3}, "class_names = 3: must be names in a list"),
    ],
)
def test_other_arrays_are_refused(images, labels, options, message):
    with np.errstate(invalid="ignore"), pytest.raises(DataError, match=message):
        made(images, labels, **options)


def test_arrays_without_values_yet_are_refused():
    with pytest.raises(DataError, match="train are no array: "):
        jax.eval_shape(lambda images: made(images).fingerprint, IMAGES)


def test_names_may_be_of_numpy():
    names = made(class_names=np.array(["a", "b", "c"])).class_names
    assert [(type(name), name) for name in names] == [(str, "a"), (str, "b"), (str, "c")]


def test_first_images_are_set_apart_where_the_config_says_so():
    dataset = data.split(made(), DataConfig(validation_size=2))
    np.testing.assert_array_equal(dataset.validation.images, IMAGES[:2])
    np.testing.assert_array_equal(dataset.train.labels, LABELS[2:])
    assert dataset.fingerprint == made().fingerprint
    given = made(validation=(IMAGES[:2], LABELS[:2]))
    assert given.fingerprint != dataset.fingerprint
    assert data.split(given, DataConfig()) is given
    with pytest.raises(ConfigError, match="has a validation part of 2 images"):
        data.split(given, DataConfig(validation_size=3))
    with pytest.raises(ConfigError, match=r"data.rows = 8: .* has 4, and only pictures"):
        data.split(given, DataConfig(rows=8))


@pytest.mark.parametrize("names", ["x_train y_train x_test y_test", "train_images train_labels "
                                   "test_images test_labels"])  # fmt: skip
def test_npz_has_the_names_of_keras_or_of_medmnist(tmp_path, names):
    arrays = dict(
        zip(names.split(), (IMAGES, LABELS[:, None], IMAGES[:3], LABELS[:3]), strict=True)
    )
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    dataset = data.load(DataConfig("npz", str(tmp_path / "set.npz"), validation_size=1))
    assert (dataset.name, dataset.class_names) == ("npz", ("ant", "bee", "cat"))
    assert dataset.fingerprint == made().fingerprint
    np.testing.assert_array_equal(dataset.train.images, IMAGES[1:])


def test_npz_with_validation_and_names(tmp_path):
    np.savez(
        tmp_path / "set.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS,
        x_val=IMAGES[:2], y_val=LABELS[:2], class_names=["a", "b", "c"],
    )  # fmt: skip
    dataset = data.load(DataConfig("npz", str(tmp_path / "set.npz")))
    assert (len(dataset.validation.labels), dataset.class_names) == (2, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"PK\x03\x04 nothing more", "damaged or no npz file"),
        (b"", "damaged or no npz file"),
        ("pickle", "damaged or no npz file of plain arrays"),
        ("npy", "holds a single array"),
        ("other", "holds a, b; it must hold x_train"),
    ],
)
def test_npz_that_is_none_is_named(tmp_path, content, message):
    path = tmp_path / "set.npz"
    if content == "pickle":
        some = np.array([{}], object)
        np.savez(path, x_train=some, y_train=some, x_test=some, y_test=some)
    elif content == "npy":
        np.save(tmp_path / "one.npy", IMAGES)
        path = tmp_path / "one.npy"
    elif content == "other":
        np.savez(path, a=IMAGES, b=LABELS)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        data.load(DataConfig("npz", str(path)))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_classes_of_idx_may_have_names(tmp_path, encoding):
    directory = write_set(tmp_path / "set", list(random_arrays(classes=3)))
    (directory / "classes.txt").write_text("één\ntwee\ndrie\n", encoding=encoding)
    assert data.load(DataConfig("idx", str(directory))).class_names == ("één", "twee", "drie")
    (directory / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="label 2 of image 0: must be from 0 to 1"):
        data.load(DataConfig("idx", str(directory)))
