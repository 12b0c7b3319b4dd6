"""``rowrnn predict``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import (
    Checkpoint,
    Common,
    Flag,
    Run,
    marks,
    parse,
    plain,
    require_text,
    say,
)
from rowrnn.errors import ConfigError, DataError
from rowrnn.jax_settings import require_devices, require_jax

if TYPE_CHECKING:
    from rowrnn.lab.predict import Prediction


@dataclass(frozen=True, kw_only=True)
class PredictArguments(Common):
    """Say which class a run sees in pictures of one digit each, of any size.

    IDX files are taken too, as they are. A picture that cannot be read gets a line on stderr, and
    the exit code is then 3.
    """

    run: Run
    pictures: Annotated[Positional[tuple[Path, ...]], arg(metavar="PICTURE")]
    """PNG, JPEG or IDX files."""
    checkpoint: Checkpoint = "last"
    rows: Flag = False
    """Show the prediction after each row."""


def main(arguments: Sequence[str]) -> int:
    """Classifies pictures."""
    given = parse("predict", PredictArguments, arguments)
    require_text(given.run)
    if not given.pictures:
        raise ConfigError("predict needs at least one picture: rowrnn predict RUN PICTURE.png …")

    require_jax()
    require_devices()
    from rowrnn.lab.predict import predict

    predictions, problems = predict(given.run, given.pictures, which=given.checkpoint)
    for prediction in predictions:
        _report_prediction(prediction, rows=given.rows)
    for problem in problems:
        say(str(problem))
    given.answer([prediction.summary() for prediction in predictions])
    return DataError.exit_code if problems else 0


def _report_prediction(prediction: "Prediction", *, rows: bool) -> None:
    """One line for a picture, and with `rows` one more for each row of it."""
    read_as = ", dark on light" if prediction.inverted else ""
    then = "the only class it knows"
    if prediction.runner_up is not None:
        then = f"then {prediction.runner_up} ({prediction.runner_up_probability:.1%})"
    print(
        f"{plain(prediction.path)}: {prediction.label} ({prediction.probability:.1%}), "
        f"{then}{read_as}{prediction.warning and '; warning: ' + prediction.warning}"
    )
    if rows:
        drawn = marks()
        for row, (pixels, probabilities) in enumerate(
            zip(prediction.image, prediction.rows, strict=True), start=1
        ):
            shaded = "".join(drawn.light[int(pixel) * 5 // 256] for pixel in pixels)
            label = int(probabilities.argmax())
            bar = drawn.bar * round(20 * probabilities[label])
            print(f"{row:4d} {shaded} {label} {probabilities[label]:6.1%} {bar}")
