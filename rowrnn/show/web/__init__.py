"""A network in a page of its own: one HTML file, in which it reads what is drawn there.

The page is ``digit.html`` with ``digit.css`` and three scripts, written by hand: ``network.js``,
the LSTM; ``picture.js``, from a drawing to an image; and ``digit.js``, what is seen and done. It
asks for nothing, and could not: its Content-Security-Policy allows the style and the script that
are in the file, by their SHA-256, and nothing else.
"""

import base64
import hashlib
from importlib import resources

import numpy as np

from rowrnn.errors import ConfigError, count, cut
from rowrnn.lab.classifier import Classifier

MOST_NUMBERS = 2**22
"""Most parameters of a network: its file has 21 MiB, and a row takes about as long as a frame."""
MOST_SIDE, MOST_CLASSES = 512, 256

_INSTEAD = "export it to a directory with --to (in Python rowrnn.export)"
_SCRIPTS = ("network.js", "picture.js", "digit.js")
# Data sets whose images are digits.
_DIGITS = ("mnist", "mnist_sample")


def page(classifier: Classifier, trained: str) -> str:
    """The HTML file of a network.

    A parameter is two float16 numbers, itself and what its rounding left: with the first alone, the
    logits of some images would be off by more than 0.01. The page computes in float64, also where
    the products of the network are in bfloat16.

    Args:
        classifier: the network.
        trained: how it was trained and how good it is, in a sentence.

    Raises `ConfigError` where the network is too large for a page, or float16 cannot hold it.

    >>> import tempfile, rowrnn
    >>> from rowrnn.config import Config, ModelConfig, TrainConfig
    >>> config = Config(ModelConfig(8, 16), train=TrainConfig(examples=1000, display="none"))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     run = rowrnn.train(config, f"{directory}/run").run_dir
    ...     html = page(rowrnn.load(run), "It has seen <1,000 digits.")
    >>> html[:15], "seen &lt;1,000 digits" in html, len(html) < 60_000
    ('<!doctype html>', True, True)
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    _require_feasible(classifier)
    numbers = _numbers(classifier)
    rounded = _to_float16(numbers)
    style, script = _text("digit.css"), "".join(map(_text, _SCRIPTS))
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        _text("digit.html")
    )
    (rows, pixels), config = classifier.shape, classifier.config.model
    document = {
        "rows": rows,
        "pixels": pixels,
        "classes": classifier.classes,
        "names": classifier.names,
        "pictures": classifier.pictures,
        "hidden": config.hidden_size,
        "layers": config.layers,
        "pooling": config.pooling,
        "weights": _encode(rounded),
        "rests": _encode((numbers - rounded).astype("<f2")),
    }
    return template.render(
        policy=f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        subject="digit" if classifier.dataset in _DIGITS else "picture",
        classifier=classifier,
        # A run directory may call its data anything.
        dataset=cut("".join(filter(str.isprintable, classifier.dataset))),
        size=f"{count(config.layers, 'LSTM layer')} of {count(config.hidden_size, 'unit')}",
        trained=trained,
        document=document,
    )


def _require_feasible(classifier: Classifier) -> None:
    """Raises `ConfigError` where a browser could not draw the page, or not in time."""
    rows, pixels, classes = *classifier.shape, classifier.classes
    if classifier.channels == 3:
        raise ConfigError(f"a page draws in grey, and this network reads colour; {_INSTEAD}")
    if max(rows, pixels) > MOST_SIDE:
        raise ConfigError(
            f"a page reads images of at most {MOST_SIDE}×{MOST_SIDE} pixels, and this "
            f"network those of {rows}×{pixels}; {_INSTEAD}"
        )
    if classes > MOST_CLASSES:
        raise ConfigError(
            f"a page shows at most {MOST_CLASSES} classes, and this network has "
            f"{classes:,}; {_INSTEAD}"
        )
    hidden, layers = classifier.config.model.hidden_size, classifier.config.model.layers
    inputs = pixels + (layers - 1) * hidden
    numbers = (inputs + layers * (hidden + 1)) * 4 * hidden + (hidden + 1) * classes
    if numbers > MOST_NUMBERS:
        raise ConfigError(
            f"this network would take {numbers:,} numbers in a page, which may hold "
            f"{MOST_NUMBERS:,}; {_INSTEAD}, or train one with a smaller model.hidden_size"
        )


def _numbers(classifier: Classifier) -> np.ndarray:
    """All parameters as float64, in the order that ``network.js`` says.

    The projection is joined into the kernel of the first layer, and the forget bias into the
    biases, as `rowrnn.core.lstm.fast` does it.
    """
    config = classifier.config.model
    affine = {
        name: [np.asarray(leaf, np.float64) for leaf in layer]
        for name, layer in classifier.params.items()
    }
    hidden = config.hidden_size
    if "projection" in affine:
        projection, shift = affine["projection"]
        kernel, bias = affine["lstm_0"]
        inputs, recurrent = np.split(kernel, [-hidden])
        affine["lstm_0"] = [np.concatenate([projection @ inputs, recurrent]), shift @ inputs + bias]
    parts = []
    for layer in range(config.layers):
        kernel, bias = affine[f"lstm_{layer}"]
        parts += [kernel, bias + np.repeat([0.0, 0.0, config.forget_bias, 0.0], hidden)]
    return np.concatenate([part.ravel() for part in (*parts, *affine["readout"])])


def _to_float16(numbers: np.ndarray) -> np.ndarray:
    """Numbers as little-endian float16; raises `ConfigError` where one is too large for it."""
    largest = float(np.abs(numbers).max())
    if not largest < float(np.finfo(np.float16).max):  # `not`, since it may be NaN
        raise ConfigError(
            f"this network has a weight of {largest:.3g}, and the float16 of a page goes to "
            f"65,504; {_INSTEAD}, which has float32"
        )
    return numbers.astype("<f2")


def _encode(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def _source(text: str) -> str:
    """How a Content-Security-Policy names what is in the page itself."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(name: str) -> str:
    return resources.files("rowrnn.show.web").joinpath(name).read_text(encoding="utf-8")
