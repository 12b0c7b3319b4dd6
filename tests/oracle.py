"""The network once more, in float64 NumPy and written with loops: what the tests compare with."""

import jax
import numpy as np


def network_logits(params, images, forget_bias=1.0, carries=None, pooling="last"):
    """The whole network in float64 NumPy, one image, row and layer at a time: logits [T, B, C]."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    cells = [params[name] for name in sorted(params) if name.startswith("lstm_")]
    hidden = cells[0].bias.size // 4
    logits = np.zeros((images.shape[1], images.shape[0], params["readout"].bias.size))
    for b, image in enumerate(images):
        state = [(np.zeros(hidden), np.zeros(hidden)) for _ in cells]
        if carries is not None:
            state = [(np.asarray(c[b], np.float64), np.asarray(h[b], np.float64))
                     for c, h in carries]  # fmt: skip
        read = []
        for t, row in enumerate(image):
            x = row / 255
            if "projection" in params:
                x = x @ params["projection"].kernel + params["projection"].bias
            for layer, cell in enumerate(cells):
                c, h = state[layer]
                z = np.concatenate([x, h]) @ cell.kernel + cell.bias
                i, j, f, o = np.split(z, 4)
                c = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(j)
                h = sigmoid(o) * np.tanh(c)
                state[layer], x = (c, h), h
            read.append(x)
            if pooling == "mean":
                x = np.mean(read, axis=0)
            logits[t, b] = x @ params["readout"].kernel + params["readout"].bias
    return logits
