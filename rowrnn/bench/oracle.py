"""The network in float64 NumPy, derivatives by hand: what is timed has to agree with this.

It shares no line with what it judges. Time and memory do not matter here; that the formulas can
be read does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Weights = dict[str, np.ndarray]
"""``projection_kernel`` [F, P], ``projection_bias`` [P], ``cell_kernel`` [P + H, 4H] with the
gates in the order i, j, f, o, ``cell_bias`` [4H], ``readout_kernel`` [H, C], ``readout_bias``
[C]. Without the first two, the rows are read directly."""

FORGET_BIAS = 1.0
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class _Row(NamedTuple):
    """What the backward pass needs of one row."""

    xh: np.ndarray
    i: np.ndarray
    j: np.ndarray
    f: np.ndarray
    o: np.ndarray
    c_before: np.ndarray
    c: np.ndarray


def lstm(weights: Mapping[str, np.ndarray], rows: np.ndarray) -> tuple[np.ndarray, list[_Row]]:
    """The last hidden state [B, H] over rows [T, B, F], and what the backward pass needs."""
    hidden = weights["cell_bias"].size // 4
    c = h = np.zeros((rows.shape[1], hidden))
    tape = []
    for x in rows:
        if "projection_kernel" in weights:
            x = x @ weights["projection_kernel"] + weights["projection_bias"]
        xh = np.concatenate([x, h], axis=1)
        z = xh @ weights["cell_kernel"] + weights["cell_bias"]
        i, j, f, o = np.split(z, 4, axis=1)
        i, j, f, o = _sigmoid(i), np.tanh(j), _sigmoid(f + FORGET_BIAS), _sigmoid(o)
        c_before, c = c, f * c + i * j
        h = o * np.tanh(c)
        tape.append(_Row(xh, i, j, f, o, c_before, c))
    return h, tape


def lstm_gradients(
    weights: Mapping[str, np.ndarray], rows: np.ndarray, tape: Sequence[_Row], dh: np.ndarray
) -> Weights:
    """Gradients with respect to the weights, where `dh` [B, H] is that of the last hidden state."""
    names = [name for name in weights if not name.startswith("readout")]
    grads = {name: np.zeros(weights[name].shape) for name in names}
    dc = np.zeros_like(dh)
    for x, row in zip(rows[::-1], tape[::-1], strict=True):
        tanh_c = np.tanh(row.c)
        dc = dc + dh * row.o * (1 - tanh_c**2)
        di = dc * row.j * row.i * (1 - row.i)
        dj = dc * row.i * (1 - row.j**2)
        df = dc * row.c_before * row.f * (1 - row.f)
        do = dh * tanh_c * row.o * (1 - row.o)
        dz = np.concatenate([di, dj, df, do], axis=1)
        grads["cell_kernel"] += row.xh.T @ dz
        grads["cell_bias"] += dz.sum(axis=0)
        inputs = row.xh.shape[1] - dh.shape[1]
        if "projection_kernel" in weights:
            dx = dz @ weights["cell_kernel"][:inputs].T
            grads["projection_kernel"] += x.T @ dx
            grads["projection_bias"] += dx.sum(axis=0)
        dh, dc = dz @ weights["cell_kernel"][inputs:].T, dc * row.f
    return grads


def training(
    weights: Weights, images: np.ndarray, labels: np.ndarray, batch: int, steps: int, rate: float
) -> tuple[np.ndarray, list[float]]:
    """Trains with Adam on one batch after another, in the order of the data.

    Args:
        weights: with readout.
        images: uint8 [N, T, F], at least a batch of them; where fewer are left, it begins anew.
        labels: int [N].
        batch: examples in a step.
        steps: updates.
        rate: learning rate.

    Returns:
        Logits [batch, C] of the first batch before any update, and the loss of every batch before
        its update and of one more batch after the last: `steps` + 1 losses.
    """
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    first_logits, losses = np.empty(0), []
    for step in range(steps + 1):
        start = step % (len(labels) // batch) * batch
        part = slice(start, start + batch)
        logits, loss, grads = _loss_and_gradients(weights, images[part], labels[part])
        first_logits = first_logits if step else logits
        losses.append(loss)
        for name, grad in grads.items():
            first[name] = BETA1 * first[name] + (1 - BETA1) * grad
            second[name] = BETA2 * second[name] + (1 - BETA2) * grad**2
            mean = first[name] / (1 - BETA1 ** (step + 1))
            square = second[name] / (1 - BETA2 ** (step + 1))
            weights[name] = weights[name] - rate * mean / (np.sqrt(square) + EPSILON)
    return first_logits, losses


def _loss_and_gradients(
    weights: Weights, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, float, Weights]:
    rows = images.transpose(1, 0, 2) / 255
    h, tape = lstm(weights, rows)
    logits = h @ weights["readout_kernel"] + weights["readout_bias"]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    examples = np.arange(len(labels))
    loss = -np.log(probabilities[examples, labels]).mean()
    dlogits = probabilities.copy()
    dlogits[examples, labels] -= 1
    dlogits /= len(labels)
    grads = lstm_gradients(weights, rows, tape, dlogits @ weights["readout_kernel"].T)
    grads["readout_kernel"] = h.T @ dlogits
    grads["readout_bias"] = dlogits.sum(axis=0)
    return logits, float(loss), grads


def random_weights(seed: int, features: int, projection: int, hidden: int, classes: int) -> Weights:
    """Float32 weights of ordinary size, biases included; without projection or classes, fewer."""
    draw = np.random.default_rng(seed)

    def affine(name: str, inputs: int, outputs: int) -> Weights:
        limit = (3 / inputs) ** 0.5
        kernel = draw.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)
        bias = draw.normal(0, 0.1, outputs).astype(np.float32)
        return {f"{name}_kernel": kernel, f"{name}_bias": bias}

    weights = affine("cell", (projection or features) + hidden, 4 * hidden)
    if projection:
        weights |= affine("projection", features, projection)
    if classes:
        weights |= affine("readout", hidden, classes)
    return weights


def distance(value: Any, truth: np.ndarray) -> float:
    """The norm of the difference over the norm of the truth; infinite where a value is not finite.

    >>> round(distance(np.array([3.0, 4.1]), np.array([3.0, 4.0])), 3)
    0.02
    """
    difference = float(np.linalg.norm(np.asarray(value, np.float64) - truth))
    return difference / float(np.linalg.norm(truth)) if np.isfinite(difference) else float("inf")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5
