"""The network as an ONNX model, for programs that know nothing of jax.

The only user of jax2onnx, which comes with ``pip install 'rowrnn[onnx]'``.
"""

import dataclasses
import logging

import jax
import numpy as np

from rowrnn.core.model import RowRNN
from rowrnn.errors import ConfigError
from rowrnn.lab.classifier import Classifier


def to_onnx(classifier: Classifier) -> bytes:
    """The content of ``model.onnx``: images [B, T, F] uint8 -> logits [B, C] float32, for any B.

    Raises `ConfigError` for a network whose products are not float32.
    """
    import jax2onnx  # pyright: ignore[reportMissingImports]

    config = classifier.config.model
    if config.dtype != "float32":
        raise ConfigError(f"model.dtype = {config.dtype!r}: model.onnx needs a network in float32")
    # ONNX has the loop of the recurrence's definition.
    model = RowRNN(dataclasses.replace(config, backend="scan"), classifier.classes)

    def logits(images):
        return model.apply({"params": classifier.params}, images)[0]

    images = jax.ShapeDtypeStruct(("batch", *classifier.shape), np.uint8)  # type: ignore[arg-type]
    # These packages warn of shapes that nobody needs, and of parts of jax that are not used here.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    converted = jax2onnx.to_onnx(logits, [images], input_names=["images"], output_names=["logits"])
    return converted.SerializeToString()
