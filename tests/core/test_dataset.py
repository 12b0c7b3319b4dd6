"""What the network cannot read is refused where it comes in, with what would be right."""

import dataclasses

import numpy as np
import pytest
from networks import random_network

import rowrnn
from rowrnn import data
from rowrnn.config import Config, DataConfig, ModelConfig, TrainConfig
from rowrnn.data import Split
from rowrnn.errors import DataError

CONFIG = Config(ModelConfig(0, 8), train=TrainConfig(examples=300, batch_size=50))
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
LABELS = np.arange(20, dtype=np.int32) % 10

BAD_IMAGES = {
    "rows left out": (IMAGES[:, :20], "are (20×20×28, and must be N×28×28|100×28×28)"),
    "floats from 0 to 1": (IMAGES / 255, r"are float64, .* of floats from 0 to 1 take np\.round"),
    "float32": (IMAGES.astype(np.float32), "are float32"),
    "NaN": (np.full(IMAGES.shape, np.nan), "are float64"),
    "int8": (IMAGES.astype(np.int8), "are int8, and must be uint8 from 0"),
    "int64": (IMAGES.astype(np.int64), "are int64"),
    "bool": (IMAGES > 0, "are bool"),
    "objects": (IMAGES.astype(object), "are object"),
    "words": (["a", "b"], "are <U1"),
    "a single image": (IMAGES[0], r"are 28×28, .* take image\[None\]"),
    "channels": (IMAGES[..., None], "are 20×28×28×1, and must be"),
    "flat": (IMAGES.reshape(20, -1), "are 20×784"),
    "a list": (IMAGES.tolist(), "are int64"),
    "ragged lists": ([[1], [1, 2]], "are no array"),
    "nothing": (None, "are object"),
    "none": (IMAGES[:0], "there is none"),
}
BAD_LABELS = {
    "from 1": (LABELS + 1, "are from 1 to 10, and must be from 0 to 9"),
    "from -1": (LABELS - 1, "are from -1 to 8"),
    "one-hot": (np.eye(10, dtype=np.int32)[LABELS], r"are 20×10, .* take labels\.argmax"),
    "floats": (LABELS.astype(float), "are float64, and must be integers"),
    "bool": (LABELS > 3, "are bool"),
    "fewer": (LABELS[:19], "19 of 20 images"),
    "more": (np.append(LABELS, 1), "21 of 20 images"),
    "more classes than said": (LABELS + 300, "are from 300 to 309"),
    "words": (["0"] * 20, "are <U1"),
    "NaN": (np.full(20, np.nan), "are float64"),
    "a number": (3, "are a single number"),
}
network = random_network(CONFIG.model)


@pytest.fixture(scope="module")
def dataset():
    return data.load(DataConfig("mnist_sample", validation_size=100))


@pytest.mark.parametrize(("images", "says"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_images_that_cannot_be_read(dataset, images, says):
    for door in (network.logits, network.probabilities, network.watch):
        with pytest.raises(DataError, match=f"^images:? {says}"):
            door(images)
    with pytest.raises(DataError, match=f"^images:? {says}"):
        network.correct_after_rows(images, LABELS)
    for part in ("train", "test"):
        with pytest.raises(DataError, match=f"images:? {says}"):
            dataclasses.replace(dataset, **{part: Split(images, LABELS)})


@pytest.mark.parametrize(("labels", "says"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_cannot_be_learned(dataset, labels, says):
    for part in ("train", "validation", "test"):
        with pytest.raises(DataError, match=f"^{part} labels:? {says}"):
            dataclasses.replace(dataset, **{part: Split(IMAGES, labels)})
    with pytest.raises(DataError, match=f"^labels:? {says}"):
        network.correct_after_rows(IMAGES, labels)


def test_parts_of_another_size_are_refused(dataset):
    with pytest.raises(DataError, match=r"^test images are 20×27×28, and must be N×28×28"):
        dataclasses.replace(dataset, test=Split(IMAGES[:, :27], LABELS))
    with pytest.raises(DataError, match=r"^classes = 2\.5: must be an integer"):
        dataclasses.replace(dataset, classes=2.5)
    with pytest.raises(DataError, match="must be a Dataset"):
        rowrnn.make_train(CONFIG, (IMAGES, LABELS))  # type: ignore[arg-type]


def test_what_can_be_read_is_taken(dataset):
    import jax.numpy as jnp

    expected = network.logits(IMAGES)
    np.testing.assert_array_equal(network.logits(jnp.asarray(IMAGES)), expected)
    np.testing.assert_array_equal(network.logits(np.asfortranarray(IMAGES)), expected)
    for labels in (LABELS.astype(np.uint8), LABELS.astype(np.int64)):
        dataclasses.replace(dataset, train=Split(IMAGES, labels))
