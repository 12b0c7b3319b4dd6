import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from rowrnn import data
from rowrnn.config import Config, DataConfig, ModelConfig
from rowrnn.core import augment
from rowrnn.core import state as states
from rowrnn.core.step import Batch, make_train_step

# One program each, and not one for each operation of it.
sample = jax.jit(augment.sample)
random_warp = jax.jit(augment.random_warp)
random_shift = jax.jit(augment.random_shift, static_argnums=2)


@pytest.fixture(scope="module")
def digits():
    return data.load(DataConfig()).train.images[:64]


def places(images, seed, spread):
    """Random places on and around images, as two arrays [B, T, F]."""
    _, rows, pixels = images.shape
    away = np.random.default_rng(seed).normal(0, spread, (2, *images.shape))
    ys = away[0] + np.arange(rows)[None, :, None]
    xs = away[1] + np.arange(pixels)[None, None, :]
    return ys, xs


@pytest.mark.parametrize("spread", [0.7, 100.0])
@pytest.mark.parametrize("shape", [(7, 5), (28, 28)])
def test_samples_between_pixels_are_those_of_scipy(shape, spread):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape)).astype(np.uint8)
    ys, xs = places(images, 1, spread)
    sampled = np.asarray(sample(jnp.asarray(images), jnp.asarray(ys), jnp.asarray(xs)))
    assert sampled.dtype == np.uint8
    for image, y, x, ours in zip(images, ys, xs, sampled, strict=True):
        # Zeros around it, towards which SciPy too interpolates only where it is told to pad.
        expected = ndimage.map_coordinates(
            np.pad(image.astype(float), 1), [y + 1, x + 1], order=1, mode="constant"
        )
        assert np.abs(ours - expected).max() < 0.5 + 2e-2  # Rounding, and float32.


def test_a_warp_by_nothing_is_the_image(digits):
    warped = random_warp(jax.random.key(0), jnp.asarray(digits), 0.0, 0.0, 0.0, 0.0)
    np.testing.assert_array_equal(warped, digits)


def moments(image):
    """Covariance of the ink, [2, 2], over (y, x)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    places, ink = np.stack([y.ravel(), x.ravel()]), image.ravel().astype(float)
    return np.cov(places, aweights=ink, ddof=0)


def bar(length=21, width=11, size=41):
    """A bar lying about the centre of a square."""
    image, middle = np.zeros((size, size), np.uint8), size // 2
    image[middle - width // 2 : middle + width // 2 + 1,
          middle - length // 2 : middle + length // 2 + 1] = 255  # fmt: skip
    return image


def warps(**changes):
    """Many warps of a bar, and the covariance of the ink of each."""
    most = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "elastic": 0.0} | changes
    images = jnp.asarray(np.stack([bar()] * 400))
    warped = np.asarray(random_warp(jax.random.key(1), images, **most))
    return warped, np.stack([moments(image) for image in warped])


def test_a_rotation_turns_by_up_to_its_angle():
    _, covariances = warps(rotation=0.3)
    angles = np.array([np.arctan2(*np.linalg.eigh(c)[1][:, 1]) for c in covariances])
    angles = (angles + np.pi / 2) % np.pi - np.pi / 2
    assert -0.32 < angles.min() < -0.28
    assert 0.28 < angles.max() < 0.32
    assert abs(angles.mean()) < 0.03
    # It turns, and changes nothing else.
    np.testing.assert_allclose(
        np.trace(covariances, axis1=1, axis2=2), (21**2 + 11**2) / 12, rtol=0.02
    )


def test_height_and_width_change_by_up_to_their_share_each_by_its_own():
    _, covariances = warps(scale=0.2)
    stretch = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2) / np.diag(moments(bar())))
    for axis in (0, 1):
        assert 0.75 < stretch[:, axis].min() < 0.85
        assert 1.15 < stretch[:, axis].max() < 1.25
    assert abs(np.corrcoef(stretch.T)[0, 1]) < 0.15


def test_a_shear_slides_rows_and_leaves_them_where_they_are():
    _, covariances = warps(shear=0.5)
    heights = covariances[:, 0, 0]
    np.testing.assert_allclose(heights, heights.mean(), rtol=0.01)
    slopes = covariances[:, 0, 1] / heights
    assert -0.55 < slopes.min() < -0.45
    assert 0.45 < slopes.max() < 0.55


def test_elastic_displacements_are_smooth_and_as_large_as_asked_for():
    fields = np.asarray(
        jax.jit(augment.smooth_noise, static_argnums=(1, 2))(jax.random.key(2), (4000,), (28, 20)),
        np.float64,
    )
    np.testing.assert_allclose(fields.std(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(fields.mean(axis=0), 0, atol=0.08)
    # Neighbours differ little, and places far apart have nothing to do with each other.
    assert np.abs(np.diff(fields, axis=1)).mean() < 0.25
    assert abs(np.corrcoef(fields[:, 2, 2], fields[:, 25, 17])[0, 1]) < 0.06


def test_what_a_displacement_does_to_an_image_grows_with_it(digits):
    change = [
        np.abs(
            np.asarray(
                random_warp(jax.random.key(0), jnp.asarray(digits), 0.0, 0.0, 0.0, amount)
            ).astype(float)
            - digits
        ).mean()
        for amount in (0.25, 0.5, 1.0)
    ]
    assert 0 < change[0] < change[1] < change[2]


def test_images_of_a_batch_are_warped_each_in_its_own_way():
    warped, _ = warps(rotation=0.3, scale=0.2, shear=0.3, elastic=1.0)
    assert len({image.tobytes() for image in warped}) == len(warped)


def test_shifts_match_numpy_and_reach_both_ends():
    images = np.random.default_rng(0).integers(0, 256, (64, 7, 5)).astype(np.uint8)
    shifted = np.asarray(random_shift(jax.random.key(0), jnp.asarray(images), 2))
    seen = set()
    for image, moved in zip(images, shifted, strict=True):
        matches = []
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                padded = np.pad(image, 2)
                candidate = padded[2 + dy : 9 + dy, 2 + dx : 7 + dx]
                if (candidate == moved).all():
                    matches.append((dy, dx))
        assert len(matches) == 1
        seen.update(matches)
    assert {dy for dy, _ in seen} == {dx for _, dx in seen} == {-2, -1, 0, 1, 2}


@pytest.mark.slow
def test_pixels_move_with_all_their_channels():
    """A network that looks at the red alone loses as much as one of grey on the same pictures."""
    shape, hidden, classes = (6, 5), 4, 3
    augmented = DataConfig(shift=2, rotation=0.3, scale=0.2, shear=0.1, elastic=0.5)
    grey = Config(ModelConfig(0, hidden), data=augmented)
    colour = dataclasses.replace(grey, data=dataclasses.replace(augmented, channels=3))
    red = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    coloured = np.zeros((8, *shape, 3), np.uint8)
    coloured[..., 0] = red
    labels = np.arange(8, dtype=np.int32) % classes

    def loss(config, images, state):
        train_step = jax.jit(make_train_step(config, 10, classes))
        return float(train_step(state, Batch(jnp.asarray(images), jnp.asarray(labels)))[1].loss_sum)

    state = states.create(grey, 10, shape, classes, seed=0)
    wide = states.create(colour, 10, (shape[0], 3 * shape[1]), classes, seed=0)
    kernel = state.params["lstm_0"].kernel
    sparse = jnp.zeros_like(wide.params["lstm_0"].kernel)
    sparse = sparse.at[: 3 * shape[1] : 3].set(kernel[: shape[1]])
    sparse = sparse.at[3 * shape[1] :].set(kernel[shape[1] :])
    cell = wide.params["lstm_0"]._replace(kernel=sparse)
    wide = wide._replace(params={**state.params, "lstm_0": cell})
    expected = loss(grey, red, state)
    assert loss(colour, coloured.reshape(8, shape[0], -1), wide) == pytest.approx(
        expected, rel=1e-6
    )
    plain = dataclasses.replace(grey, data=DataConfig())
    assert loss(plain, red, state) != pytest.approx(expected, rel=1e-4)
