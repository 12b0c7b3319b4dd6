"""How many floating-point operations the mathematics takes, counted by formula.

Only matrix products are counted, each multiply-add as two operations; the element-wise work of
gates, loss and optimizer is left out, as is usual. XLA's own `cost_analysis` is no help here: it
counts the body of a scan once, whatever its length.

Two counts are given, and every TFLOP/s in a report says which one it uses:

- **model**: the network as it is defined, every row through the projection and then through the
  gates. Throughput in model FLOPs compares implementations of the same network.
- **executed**: what is left when projection and input kernel are folded into one (``(x P + b) W``
  is ``x (P W) + b W``). At the notebook's sizes it is the smaller number, so that a share of the
  ceiling in executed FLOPs flatters nobody. Padding and the like are not counted.

The gradient of a product costs two products of the same size, one for each operand; pixels need
none, and so the layer that reads them costs one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The sizes that the counts depend on.

    Attributes:
        rows: rows of an image, T.
        features: pixels of a row, F.
        projection: width of the projection, P; 0 where there is none.
        hidden: units of the LSTM, H.
        classes: outputs of the readout, C; 0 where there is none.
    """

    rows: int = 28
    features: int = 28
    projection: int = 128
    hidden: int = 128
    classes: int = 10


@dataclass(frozen=True)
class Flops:
    """Operations per example: of the network as defined, and with the projection folded."""

    model: int
    executed: int


def forward(shape: Shape) -> Flops:
    """Operations of one example from pixels to logits.

    Per row, the model does ``2FP + 8(P + H)H``; folded, ``8FH + 8HH``. The readout adds ``2HC``
    once. Folding itself, a product of kernels done once in a step, is not counted: at batch 128
    it is less than a thousandth of the whole.

    >>> forward(Shape())
    Flops(model=7543296, executed=4475392)
    """
    gates = 8 * shape.hidden
    recurrence = gates * shape.hidden
    readout = 2 * shape.hidden * shape.classes
    folded = gates * shape.features
    inputs = folded
    if shape.projection:
        inputs = 2 * shape.features * shape.projection + gates * shape.projection
    return Flops(
        model=shape.rows * (inputs + recurrence) + readout,
        executed=shape.rows * (folded + recurrence) + readout,
    )


def training(shape: Shape) -> Flops:
    """Operations of one example through the forward and backward pass.

    Everything counts three times its forward cost but for the products with pixels, which count
    twice. At the notebook's sizes the folded form needs 12.6 million.

    >>> training(Shape())
    Flops(model=22429184, executed=12623360)
    """
    once = forward(shape)
    gates = 8 * shape.hidden
    pixels = 2 * shape.features * shape.projection if shape.projection else gates * shape.features
    return Flops(
        model=3 * once.model - shape.rows * pixels,
        executed=3 * once.executed - shape.rows * gates * shape.features,
    )
