"""Random changes of the training images, on the device: small warps and shifts.

Each is a pure function of a key and the images; `rowrnn.core.step` has a key for every step.
"""

import jax
import jax.numpy as jnp

from rowrnn.config import is_off

# Pixels between the control points of an elastic warp, and the width (one standard deviation) of
# the Gaussian around each: that of Simard, Steinkraus & Platt (2003), on digits of 29 pixels.
_SPACING, _WIDTH = 4, 4.0


def random_shift(key: jax.Array, images: jax.Array, most: int) -> jax.Array:
    """Moves each image by up to `most` pixels along both axes, filling with zeros.

    Args:
        key: typed key.
        images: [B, T, F].
        most: largest shift; offsets are uniform over the integers -most to most.
    """
    batch, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (most, most), (most, most)))
    offsets = jax.random.randint(key, (batch, 2), 0, 2 * most + 1)
    return jax.vmap(lambda image, offset: jax.lax.dynamic_slice(image, offset, shape))(
        padded, offsets
    )


def random_warp(
    key: jax.Array,
    images: jax.Array,
    rotation: float | jax.Array,
    scale: float | jax.Array,
    shear: float | jax.Array,
    elastic: float | jax.Array,
) -> jax.Array:
    """Resamples each image through a random affine map about its centre and a smooth distortion.

    Args:
        key: typed key.
        images: [B, T, F], uint8.
        rotation: largest angle, in radians.
        scale: largest change of size, as a share; height and width have a factor each.
        shear: largest shift of a row, in pixels for each row from the centre.
        elastic: standard deviation of the displacements of a pixel along each axis, in pixels.

    Returns:
        [B, T, F], uint8, zero where it shows what lies outside of the image.

    >>> images = jnp.full((2, 28, 28), 255, jnp.uint8)
    >>> random_warp(jax.random.key(0), images, 0.2, 0.15, 0.2, 1.0).shape
    (2, 28, 28)
    """
    batch, rows, pixels = images.shape
    affine_key, elastic_key = jax.random.split(key)
    # Draws of one kind side by side, [4, B, 1, 1], from -1 to 1.
    turn, slant, tall, wide = jax.random.uniform(affine_key, (4, batch, 1, 1), minval=-1, maxval=1)
    sin, cos = jnp.sin(rotation * turn), jnp.cos(rotation * turn)
    # Place in the image that a drawn pixel shows, from the centre: turned, slanted, stretched.
    y = jnp.arange(rows)[None, :, None] - (rows - 1) / 2
    x = jnp.arange(pixels)[None, None, :] - (pixels - 1) / 2
    turned_y, turned_x = cos * y - sin * x, sin * y + cos * x
    from_y = turned_y / (1 + scale * tall)
    from_x = (turned_x - shear * slant * turned_y) / (1 + scale * wide)
    if not is_off(elastic):
        move_y, move_x = elastic * smooth_noise(elastic_key, (2, batch), (rows, pixels))
        from_y, from_x = from_y + move_y, from_x + move_x
    return sample(images, from_y + (rows - 1) / 2, from_x + (pixels - 1) / 2)


def smooth_noise(key: jax.Array, batch: tuple[int, ...], shape: tuple[int, int]) -> jax.Array:
    """Random fields [*batch, T, F], smooth over a few pixels, with mean 0 and variance 1 each."""
    rows, pixels = (_bumps(size) for size in shape)
    noise = jax.random.normal(key, (*batch, rows.shape[1], pixels.shape[1]))
    return jnp.einsum("ti,...ij,fj->...tf", rows, noise, pixels)


def _bumps(size: int) -> jax.Array:
    """Gaussian bumps around points along an axis, [size, points], whose squares add up to 1."""
    points = jnp.arange(0, size + _SPACING, _SPACING)
    away = (jnp.arange(size)[:, None] - points[None]) / _WIDTH
    bumps = jnp.exp(-0.5 * away**2)
    return bumps / jnp.linalg.norm(bumps, axis=1, keepdims=True)


def sample(images: jax.Array, ys: jax.Array, xs: jax.Array) -> jax.Array:
    """The values of images [B, T, F] at places between their pixels, each array [B, T, F].

    Bilinear, with zeros around the image, and rounded to the type of the images.
    """
    batch, rows, pixels = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1))).reshape(-1)
    ys, xs = jnp.clip(ys + 1, 0, rows + 1), jnp.clip(xs + 1, 0, pixels + 1)
    top = jnp.minimum(ys.astype(jnp.int32), rows)
    left = jnp.minimum(xs.astype(jnp.int32), pixels)
    down, right = ys - top, xs - left
    image = jnp.arange(batch)[:, None, None]
    corner = (image * (rows + 2) + top) * (pixels + 2) + left

    def at(offset):
        # The lines above keep them in bounds; otherwise XLA would check each again.
        found = padded.at[corner + offset].get(mode="promise_in_bounds")
        return found.astype(jnp.float32)

    above = at(0) * (1 - right) + at(1) * right
    below = at(pixels + 2) * (1 - right) + at(pixels + 3) * right
    return jnp.round(above * (1 - down) + below * down).astype(images.dtype)
