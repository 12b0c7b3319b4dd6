"""Folders of pictures: what is taken for what, the split, the sizes, and what is kept."""

import csv
import os
import re

import numpy as np
import pytest
from PIL import Image

from rowrnn import Dataset, data
from rowrnn.config import DataConfig
from rowrnn.data import folder
from rowrnn.errors import ConfigError, DataError

KINDS = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(directory, count=10, kinds=KINDS, shape=(6, 8), seed=0):
    """Grey pictures in a folder for each class; gives them by their paths."""
    rng = np.random.default_rng(seed)
    made = {}
    for kind in kinds:
        (directory / kind).mkdir(parents=True)
        for index in range(count):
            path = directory / kind / f"{index}.png"
            made[path] = rng.integers(0, 256, shape, np.uint8)
            Image.fromarray(made[path]).save(path)
    return made


def load(directory, **options):
    return data.load(DataConfig("folder", str(directory), **options))


def all_images(dataset):
    parts = (dataset.validation, dataset.train, dataset.test)
    return {image.tobytes() for part in parts for image in part.images}


def test_one_level_is_split_by_class_and_kept(tmp_path, capsys):
    made = write(tmp_path / "set")
    dataset = load(tmp_path / "set", validation_size=6)
    assert dataset.class_names == KINDS
    assert all_images(dataset) == {image.tobytes() for image in made.values()}
    counts = [
        np.bincount(part.labels).tolist()
        for part in (dataset.validation, dataset.train, dataset.test)
    ]
    assert counts == [[2, 2, 2], [6, 6, 6], [2, 2, 2]]
    said = capsys.readouterr().err
    assert "24 pictures to train on and 6 to test on (ant 10, bee 10, cat 10), 6×8 pixels" in said
    (kept,) = tmp_path.glob("*.csv")
    with open(kept, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    images = np.concatenate(
        [dataset.validation.images, dataset.train.images, dataset.test.images]
    )  # fmt: skip
    for line, image in zip(lines, images, strict=True):
        assert line["path"].startswith(line["class"] + "/")
        np.testing.assert_array_equal(made[tmp_path / "set" / line["path"]], image)
    # The same again, from what was kept, and somewhere else.
    again = load(tmp_path / "set", validation_size=6)
    assert again.fingerprint == dataset.fingerprint
    assert not capsys.readouterr().err
    os.rename(tmp_path / "set", tmp_path / "moved")
    assert load(tmp_path / "moved").fingerprint == dataset.fingerprint
    assert load(tmp_path / "moved", split_seed=1).fingerprint != dataset.fingerprint
    assert len(load(tmp_path / "moved", test_share=0.5).test.labels) == 15


def test_train_test_and_validation_of_their_own(tmp_path):
    made = [write(tmp_path / "set" / part, count, seed=count)
            for part, count in (("train", 5), ("test", 2), ("val", 1))]  # fmt: skip
    dataset = load(tmp_path / "set")
    for part, images in zip(("train", "test", "validation"), made, strict=True):
        found = getattr(dataset, part)
        expected = {image.tobytes(): path.parent.name for path, image in images.items()}
        names = [KINDS[label] for label in found.labels]
        pairs = zip(found.images, names, strict=True)
        assert {image.tobytes(): name for image, name in pairs} == expected
    with pytest.raises(ConfigError, match="has a validation part of 3 images"):
        load(tmp_path / "set", validation_size=2)


def test_the_same_images_as_arrays_have_the_same_fingerprint(tmp_path):
    write(tmp_path / "set")
    one = load(tmp_path / "set")
    parts = [(part.images, part.labels) for part in (one.train, one.test)]
    assert Dataset.from_arrays(*parts).fingerprint == one.fingerprint


def test_numbers_are_in_the_order_of_numbers(tmp_path):
    write(tmp_path / "set", kinds=[str(number) for number in range(12)], count=3)
    dataset = load(tmp_path / "set")
    assert (dataset.class_names, dataset.classes) == ((), 12)
    os.rename(tmp_path / "set" / "3", tmp_path / "set" / "30")
    assert load(tmp_path / "set").class_names[-1] == "30"


def test_most_frequent_size_or_the_one_that_is_asked_for(tmp_path, capsys):
    write(tmp_path / "set")
    Image.new("L", (30, 40)).save(tmp_path / "set" / "ant" / "large.png")
    assert load(tmp_path / "set").train.images.shape[1:] == (6, 8)
    assert "resized from 1 other size" in capsys.readouterr().err
    for options, shape in (
        ({"rows": 3}, (3, 4)), ({"columns": 16}, (12, 16)), ({"rows": 5, "columns": 5}, (5, 5))
    ):  # fmt: skip
        assert load(tmp_path / "set", **options).train.images.shape[1:] == shape


def test_colour_where_there_is_some(tmp_path, capsys):
    made = write(tmp_path / "set", count=4)
    for path in made:
        Image.open(path).convert("RGB").save(path)
    grey = load(tmp_path / "set")
    assert (grey.channels, grey.train.images.shape[1:]) == (1, (6, 8))
    assert all_images(grey) == {image.tobytes() for image in made.values()}
    Image.new("RGB", (8, 6), "red").save(tmp_path / "set" / "ant" / "red.png")
    colour = load(tmp_path / "set")
    assert (colour.channels, colour.train.images.shape[1:]) == (3, (6, 24))
    assert np.array([[255, 0, 0] * 8] * 6, np.uint8).tobytes() in all_images(colour)
    assert "in colour" in capsys.readouterr().err
    assert load(tmp_path / "set", channels=1).channels == 1


def test_pictures_of_digits_are_cut_out_where_that_is_asked_for(tmp_path):
    for kind in KINDS:
        (tmp_path / "set" / kind).mkdir(parents=True)
        for index in range(3):
            sheet = np.full((60, 90), 250, np.uint8)
            sheet[20:40, 10 + 5 * index : 14 + 5 * index] = 10
            Image.fromarray(sheet).save(tmp_path / "set" / kind / f"{index}.png")
    digits = load(tmp_path / "set", pictures="digit", rows=28, columns=28).train.images
    assert (digits[:, 6:22, 14] > 200).all()
    assert (digits[:, :, :8] == 0).all()


def test_odd_things_among_the_pictures(tmp_path, capsys):
    """Hidden files, other files, folders in folders, links, and a link that leads back."""
    made = write(tmp_path / "set")
    first = tmp_path / "set" / "ant"
    (first / ".hidden.png").write_bytes(b"nothing")
    (first / "notes.txt").write_text("nothing")
    (tmp_path / "set" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "set" / "empty").mkdir()
    (first / "deeper" / "still").mkdir(parents=True)
    (first / "deeper" / "back").symlink_to(first)
    elsewhere = write(tmp_path / "elsewhere", 1, ["more"], seed=1)
    (path,) = elsewhere
    (first / "deeper" / "still" / "ünï cödé.PNG").symlink_to(path)
    (tmp_path / "set" / "dog").symlink_to(path.parent)
    write(tmp_path / "third", 2, ["x"], seed=2)
    for each in (tmp_path / "third" / "x").iterdir():
        each.rename(path.parent / f"new-{each.name}")
    dataset = load(tmp_path / "set")
    assert dataset.class_names == (*KINDS, "dog")
    count = sum(len(part.labels) for part in (dataset.train, dataset.test))
    assert count == len(made) + 1 + 3
    assert "empty holds no PNG or JPEG file, and is taken for no class" in capsys.readouterr().err


def broken(directory):
    (directory / "set" / "ant" / "3.png").write_bytes(b"\x89PNG and no more")
    (directory / "set" / "bee" / "3.png").write_bytes(b"")


def with_train_alone(directory):
    (directory / "set" / "train").mkdir()


def with_another_class(directory):
    write(directory / "set" / "train", 2)
    write(directory / "set" / "test", 2, ["dog", "ant"])


def with_one_each(directory):
    for path in (directory / "set").glob("*/[1-9].png"):
        path.unlink()


def with_a_photograph(directory):
    for path in (directory / "set").glob("*/*.png"):
        Image.new("L", (600, 600)).save(path)


def with_a_broken_link(directory):
    (directory / "set" / "ant" / "gone.png").symlink_to(directory / "nowhere")


def with_a_name_of_two_lines(directory):
    write(directory / "set", 2, ["two\nlines"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_a_name_of_two_lines, r"class name 'two\\nlines': must be a line.*rename the folder"),
        (broken, r"3\.png: not a readable PNG .*, or remove it \(and 1 more of 30\)"),
        (with_train_alone, r"holds train/, and no test/"),
        (with_another_class, r"test/dog: train/ has no such class"),
        (with_one_each, "each class has one picture, and none is left to test on"),
        (with_a_photograph, r"600×600 pixels, too many.*--data\.rows 64 --data\.columns 64"),
        (with_a_broken_link, r"gone\.png: No such file or directory; remove the link"),
    ],
)
def test_what_cannot_be_taken_is_named(tmp_path, change, message):
    write(tmp_path / "set")
    change(tmp_path)
    with pytest.raises((DataError, ConfigError), match=message):
        load(tmp_path / "set")


def test_where_nothing_lies_it_is_said_what_must(tmp_path):
    with pytest.raises(DataError, match="no such directory; it must hold a folder of PNG or JPEG"):
        load(tmp_path / "nowhere")
    (tmp_path / "flat").mkdir()
    Image.new("L", (8, 6)).save(tmp_path / "flat" / "one.png")
    with pytest.raises(DataError, match=f"{re.escape(str(tmp_path))}/flat holds no folder with p"):
        load(tmp_path / "flat")


def test_changed_pictures_are_decoded_again(tmp_path):
    made = write(tmp_path / "set")
    before = load(tmp_path / "set").fingerprint
    path = next(iter(made))
    Image.fromarray(255 - made[path]).save(path)
    os.utime(path, ns=(1, 1))
    assert load(tmp_path / "set").fingerprint != before
    (kept,) = tmp_path.glob("*.arrays")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert load(tmp_path / "set").fingerprint != before


def test_every_beginning_of_the_training_part_has_its_share_of_each_class():
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    train, test = folder.split_off(labels, [str(index) for index in range(100)], 0.2, 0)
    assert sorted(train + test) == list(range(100))
    assert [sum(labels[index] == kind for index in test) for kind in "abc"] == [12, 6, 2]
    for size in range(10, 80, 10):
        first = [labels[index] for index in train[:size]]
        for kind, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
            assert abs(first.count(kind) - share * size) <= 1


def test_who_asks_for_what_was_found_does_not_decode_again(tmp_path, capsys):
    write(tmp_path / "set")
    before = load(tmp_path / "set").fingerprint
    capsys.readouterr()
    # As the config of a network says it, which knows how its pictures were read.
    assert load(tmp_path / "set", pictures="as_is", channels=1).fingerprint == before
    assert capsys.readouterr().err == ""
    assert load(tmp_path / "set", channels=3).channels == 3
    assert load(tmp_path / "set").channels == 1
