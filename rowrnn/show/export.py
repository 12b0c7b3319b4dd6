"""A trained network for others: weights, a program that runs without rowrnn, and a model card."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from rowrnn import config as configs
from rowrnn import files
from rowrnn.core.model import RowRNN
from rowrnn.errors import RunError, count
from rowrnn.jax_settings import pinned
from rowrnn.lab.classifier import Classifier, load
from rowrnn.show import web
from rowrnn.show.onnx import to_onnx
from rowrnn.store import weights
from rowrnn.store.weights import ExportFacts

PROGRAM, ONNX, CARD = "model.jaxexport", "model.onnx", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")
# The card says in these words what is done to a picture before it is read.
_PICTURES = {
    "digit": "A picture is cut to its digit, centred and turned light on black before it is read.",
    "as_is": "A picture is resized before it is read, and keeps its light and dark.",
}


@pinned
def export(
    run_dir: str | Path,
    to: str | Path,
    *,
    which: str = "last",
    evaluation: Mapping[str, Any] | None = None,
    onnx: bool = False,
) -> Path:
    """Writes a trained network into a new directory that needs neither the run nor rowrnn.

    ``model.safetensors`` and ``config.json`` hold the parameters as `rowrnn.store.weights` says;
    ``model.jaxexport`` is the network itself, images [B, T, F] uint8 -> logits [B, C] float32 for
    any B, which `jax.export.deserialize` loads on CPUs, CUDA devices and TPUs; ``README.md`` is a
    model card. `load` and `predict` take the directory in place of a run.

    Args:
        run_dir: the run, or what `export` has made of one.
        to: the directory; it must be empty or not there yet.
        which: "last", "best" (highest validation accuracy) or a step.
        evaluation: what `Evaluation.summary` gave on the test part, for the card.
        onnx: whether to write ``model.onnx`` too, the same function for ONNX runtimes; it needs the
            extra ``rowrnn[onnx]``.

    Returns `to`. Raises `RunError` where there is no run, or the directory cannot be written,
    `ConfigError` where `onnx` is asked of a network that is not float32, and `ModuleNotFoundError`
    where its extra is not installed.
    """
    path = files.as_path(to, "to")
    classifier = load(run_dir, which)
    require_unused(path)
    contents: dict[str, str | bytes] = {
        CARD: _card(classifier, evaluation),
        weights.CONFIG: json.dumps(weights.to_document(_facts(classifier)), indent=2) + "\n",
        PROGRAM: _program(classifier),
    }
    if onnx:
        contents[ONNX] = to_onnx(classifier)
    # The weights come last: they make the directory a network.
    contents[weights.WEIGHTS] = weights.to_bytes(classifier.params)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            files.write_whole(path / name, content)
    except OSError as error:
        for name in contents:
            (path / name).unlink(missing_ok=True)
        raise RunError(f"{path} was not written: {error.strerror}") from error
    return path


def export_web(
    run_dir: str | Path,
    to: str | Path,
    *,
    which: str = "last",
    evaluation: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a trained network into one HTML file that reads what is drawn in it, row by row.

    The file needs no connection to anything and runs in any browser. Its logits are those of the
    run to 1e-3, of one whose products are in bfloat16 to the rounding of these.

    Args:
        run_dir: the run, or what `export` has made of one.
        to: the file; it must not be there yet.
        which: "last", "best" (highest validation accuracy) or a step.
        evaluation: what `Evaluation.summary` gave on the test part, for the small print.

    Returns `to`. Raises `ConfigError` where the network is too large for a page, and `RunError`
    where there is no run, or the file cannot be written.
    """
    path = files.as_path(to, "to")
    classifier = load(run_dir, which)
    require_unused(path)
    page = web.page(classifier, _accuracy(evaluation) if evaluation is not None else "")
    with files.writing(path):
        files.write_whole(path, page)
    return path


def require_unused(path: Path) -> None:
    """Raises `RunError` where an export would write over something."""
    with files.writing(path):
        if path.is_dir():
            if any(path.iterdir()):
                raise RunError(f"{path} is not empty; choose another directory")
        elif os.path.lexists(path):
            raise RunError(f"{path} is there already; choose another name")


def _facts(classifier: Classifier) -> ExportFacts:
    """What the export says of the run that it was made of."""
    # The place of the data is private, but the name of a directory of IDX files says which.
    place = classifier.config.data.dir
    places = {"data.dir": place and (Path(place).name or "."), "data.manual_dir": ""}
    return ExportFacts(
        config=configs.to_dict(configs.replace(classifier.config, places)),
        dataset=classifier.dataset,
        fingerprint=classifier.fingerprint,
        shape=classifier.shape,
        classes=classifier.classes,
        step=classifier.step,
        class_names=list(classifier.class_names),
    )


def _program(classifier: Classifier) -> bytes:
    """The network as StableHLO, with its parameters as constants."""
    # The definition of the recurrence: which of its faster forms pays depends on the batch size.
    config = configs.replace(classifier.config, {"model.backend": "scan"})
    model = RowRNN(config.model, classifier.classes)

    def logits(images):
        with jax.default_matmul_precision(config.train.precision):
            return model.apply({"params": classifier.params}, images)[0]

    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *classifier.shape), np.uint8)
    exported = jax_export.export(jax.jit(logits), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


def _card(classifier: Classifier, evaluation: Mapping[str, Any] | None) -> str:
    """The model card: what it is, how it was made, how good it is, and what it is not for."""
    config, (rows, pixels), channels = classifier.config, classifier.shape, classifier.channels
    size_of_image = f"{rows}×{pixels // channels} pixels" + (" in colour" if channels == 3 else "")
    shown = f"{rows}, {pixels}" if channels == 1 else f"{rows}, {pixels // 3} * 3"
    names = ""
    if classifier.class_names:
        # Backquotes keep a name from being read as markup.
        listed = [f"`{name.replace('`', '′')}`" for name in classifier.names]
        names = f"The classes, from 0, are {', '.join(listed)}.\n"
    accuracy = "It was not evaluated when it was exported."
    if evaluation is not None:
        accuracy = f"{_accuracy(evaluation)} It is one network: another seed gives another figure."
    what = "light digits on black" if classifier.pictures == "digit" else "grey levels"
    if channels == 3:
        what = "red, green and blue of each column in turn"
    model = config.model
    network = f"{count(model.layers, 'LSTM layer')} of {count(model.hidden_size, 'unit')}"
    made = f"{count(classifier.step, 'update')} of {count(config.train.batch_size, 'image')}"
    read_out = "mean of its hidden states" if model.pooling == "mean" else "last hidden state"
    projection = f"a linear layer to {model.projection_size}, " if model.projection_size else ""
    size = sum(leaf.size for leaf in jax.tree.leaves(classifier.params))
    return f"""\
# A row-wise LSTM for {classifier.dataset}

An image of {size_of_image} is read row by row: {projection}{network},
and a linear readout of the {read_out} to {count(classifier.classes, "class")}.
{size:,} parameters.
{names}
{_PICTURES[classifier.pictures]}

## Use

`model.jaxexport` needs jax and flatbuffers, and nothing of rowrnn:

```python
from pathlib import Path
import jax, numpy as np
from jax import export

network = export.deserialize(bytearray(Path("{PROGRAM}").read_bytes()))
images = np.zeros((4, {shown}), np.uint8)  # {what}, 0 to 255
logits = jax.jit(network.call)(images)
```

`model.safetensors` holds the parameters as float32, `config.json` what they mean: one kernel for
input and hidden state together, gates in the order i, j, f, o, `forget_bias` added to f at run
time, pixels divided by 255. `rowrnn predict` takes this directory.

## Data

{classifier.dataset}, fingerprint `{classifier.fingerprint}`.

## Recipe

{made}, seed {config.train.seed}.
{config.optimizer.name} at a learning rate of {config.optimizer.learning_rate:g}
({config.optimizer.schedule}). `config.json` has all of it under `rowrnn`.

## Accuracy

{accuracy}

## Limits

It knows images like those it was trained on, of this size, and answers with one of
{classifier.classes} classes whatever it is shown. Its probabilities are not calibrated. Do not use
it where a mistake does harm.
"""


def _accuracy(evaluation: Mapping[str, Any]) -> str:
    """The accuracy of `Evaluation.summary` in a sentence."""
    low, high = (100 * bound for bound in evaluation["interval"])
    return (
        f"{100 * evaluation['test_accuracy']:.2f} % of the {evaluation['count']:,} test images are "
        f"classified correctly (95 % Wilson interval {low:.2f} to {high:.2f} %: this network on "
        "other images)."
    )
