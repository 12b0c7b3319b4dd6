"""Sets of TFDS that are read by their description, and the sets of EMNIST."""

import gzip
import hashlib
import io
import json
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from data_files import encode, random_arrays
from PIL import Image

from rowrnn import data
from rowrnn.config import DataConfig
from rowrnn.data import tfds_sets
from rowrnn.errors import ConfigError, DataError

NAMES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))


def pictures(count, rng, tall=False):
    for index in range(count):
        yield rng.integers(0, 256, (10 + (tall and index % 3 == 0), 12, 3), np.uint8)


def prepare(directory, parts, shape=(10, 12, 3), tall=False):
    """Writes a set of colour images as TFDS does; gives the images of each part in its order."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    made = {part: list(pictures(count, rng, tall)) for part, count in parts.items()}

    def generate(images):
        for index, image in enumerate(images):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            file.seek(0)
            yield index, {"id": index, "picture": file, "kind": index % 3}

    class Insects(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            kinds = {
                "id": tfds.features.Scalar(np.int64),
                "picture": tfds.features.Image(shape=shape),
                "kind": tfds.features.ClassLabel(names=list(NAMES)),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))

        def _split_generators(self, _):
            return {part: generate(images) for part, images in made.items()}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    builder = Insects(data_dir=directory, file_format="array_record")
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_dir=directory / "downloads", download_config=config)
    stored = {}
    for part in parts:
        source = builder.as_data_source(part, decoders={"picture": tfds.decode.SkipDecoding()})
        stored[part] = [made[part][source[index]["id"]] for index in range(parts[part])]
    return stored


@pytest.fixture(scope="module")
def insects(tmp_path_factory):
    directory = tmp_path_factory.mktemp("insects")
    return directory, prepare(directory, {"train": 30, "validation": 6, "test": 9})


def test_a_set_is_read_by_its_description(insects):
    directory, stored = insects
    first, second = (data.load(DataConfig("tfds:insects", str(directory))) for _ in range(2))
    for dataset in (first, second):  # The second comes from what was kept.
        assert (dataset.class_names, dataset.classes, dataset.channels) == (NAMES, 3, 3)
        for part, images in stored.items():
            found = getattr(dataset, part).images
            np.testing.assert_array_equal(found.reshape(-1, 10, 12, 3), np.stack(images))
    named = data.load(DataConfig("tfds:insects:1.2.0", str(directory)))
    assert named.fingerprint == first.fingerprint


def test_colour_may_be_read_as_grey_and_smaller(insects):
    directory, stored = insects
    grey = data.load(DataConfig("tfds:insects", str(directory), channels=1)).test.images
    expected = np.stack(stored["test"]) @ [0.299, 0.587, 0.114]
    assert np.abs(grey - expected).max() <= 1
    small = data.load(DataConfig("tfds:insects", str(directory), rows=5)).test.images
    assert small.shape == (9, 5, 3 * 6)


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({"train": 30, "validation": 9}, (30, 0, 9)),
        ({"train": 30}, (24, 0, 6)),
    ],
)
def test_a_set_without_a_test_part_and_of_several_sizes(tmp_path, parts, sizes):
    prepare(tmp_path, parts, (None, None, 3), tall=True)
    dataset = data.load(DataConfig("tfds:insects", str(tmp_path)))
    counts = [len(getattr(dataset, part).labels) for part in ("train", "validation", "test")]
    assert tuple(counts) == sizes
    assert dataset.train.images.shape[1:] == (10, 36)
    assert np.bincount(dataset.test.labels).tolist() == [sizes[2] // 3] * 3


def described(directory, change):
    path = directory / "insects" / "1.2.0" / "features.json"
    content = json.loads(path.read_text())
    change(content["featuresDict"]["features"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda all: all.pop("kind"), "one image and one class label"),
        (lambda all: all["picture"]["image"].update(dtype="uint16"), "images are uint16"),
        (lambda all: all["kind"]["classLabel"].pop("numClasses"), r"damaged \(KeyError"),
    ],
)
def test_a_set_of_another_kind_is_named(insects, tmp_path, change, message):
    shutil.copytree(insects[0], tmp_path / "copy")
    described(tmp_path / "copy", change)
    with pytest.raises(DataError, match=message):
        data.load(DataConfig("tfds:insects", str(tmp_path / "copy")))


def test_records_that_are_damaged_are_named(insects, tmp_path):
    shutil.copytree(insects[0] / "insects", tmp_path / "insects")
    path = next((tmp_path / "insects" / "1.2.0").glob("*train.array_record*"))
    content = bytearray(path.read_bytes())
    content[2000] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"the set is damaged.*; delete the directory, and prepare"):
        data.load(DataConfig("tfds:insects", str(tmp_path)))


def test_what_is_not_there_says_how_tfds_prepares_it(insects, tmp_path):
    with pytest.raises(DataError, match=r"not prepared in .*tfds\.builder\('cifar10', file_form"):
        data.load(DataConfig("tfds:cifar10", str(tmp_path)))
    with pytest.raises(DataError, match=r"insects/9\.9\.9; prepare it"):
        data.load(DataConfig("tfds:insects:9.9.9", str(insects[0])))
    with pytest.raises(ConfigError, match=r"did you mean emnist/letters.*tfds\.builder\('emnist/l"):
        data.prepare("emnist/lettres")
    (tmp_path / "many" / "one").mkdir(parents=True)
    with pytest.raises(DataError, match="say which, such as tfds:many/one"):
        data.load(DataConfig("tfds:many", str(tmp_path)))


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive in the form of EMNIST's, with two of its sets, whose checksum is registered."""
    directory = tmp_path / "originals"
    directory.mkdir()
    arrays = {"letters": list(random_arrays(classes=27)), "digits": list(random_arrays())}
    with zipfile.ZipFile(directory / "gzip.zip", "w") as packed:
        for kind, (train, train_labels, test, test_labels) in arrays.items():
            for part, images, labels in (
                ("train", train, train_labels), ("test", test, test_labels)
            ):  # fmt: skip
                name = f"gzip/emnist-{kind}-{part}"
                packed.writestr(f"{name}-images-idx3-ubyte.gz", gzip.compress(encode(images)))
                packed.writestr(f"{name}-labels-idx1-ubyte.gz", gzip.compress(encode(labels)))
    content = (directory / "gzip.zip").read_bytes()
    info = SimpleNamespace(
        size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename="gzip.zip"
    )
    monkeypatch.setattr(tfds_sets, "_originals", lambda _: {"http://127.0.0.1:1/gzip.zip": info})
    return directory, arrays


@pytest.mark.parametrize(("kind", "classes"), [("letters", 37), ("digits", 10)])
def test_emnist_is_prepared_from_its_archive_and_stands_upright(archive, tmp_path, kind, classes):
    directory, arrays = archive
    path = data.prepare(f"emnist/{kind}", str(tmp_path / "tfds"), str(directory))
    assert path == tmp_path / "tfds" / "emnist" / kind / "3.1.0"
    dataset = data.load(DataConfig(f"tfds:emnist/{kind}", str(tmp_path / "tfds")))
    assert (dataset.classes, dataset.class_names) == (classes, ())
    for images, labels, part in (
        (*arrays[kind][:2], dataset.train), (*arrays[kind][2:], dataset.test)
    ):  # fmt: skip
        pairs = {image.T.tobytes(): label for image, label in zip(images, labels, strict=True)}
        found = zip(part.images, part.labels.tolist(), strict=True)
        assert {image.tobytes(): label for image, label in found} == pairs
    # On disk it is as TFDS has it, on its side.
    import tensorflow_datasets as tfds

    image = tfds.builder_from_directory(path).as_data_source("test")[0]["image"][..., 0]
    assert image.tobytes() in {each.tobytes() for each in arrays[kind][2]}


def test_another_archive_is_refused(archive, tmp_path):
    directory, _ = archive
    path = directory / "gzip.zip"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"gzip\.zip: checksum mismatch"):
        data.prepare("emnist/letters", str(tmp_path / "tfds"), str(directory))
    assert not (tmp_path / "tfds").exists()


def test_the_archive_of_emnist_is_the_one_that_tfds_registers():
    ((url, info),) = tfds_sets._originals("emnist/letters").items()
    assert url.startswith("https://biometrics.nist.gov/")
    assert info.checksum == "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"
    assert set(tfds_sets.EMNIST.items()) == {
        (f"emnist/{config.name}", config.class_number)
        for config in tfds_sets._stock_builder("emnist/letters").BUILDER_CONFIGS
    }
