"""``rowrnn predict``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    tell,
    tell_written,
)
from rowrnn.errors import ConfigError, DataError, count
from rowrnn.jax_settings import require_devices, require_jax
from rowrnn.lab.shown import percent

if TYPE_CHECKING:
    from rowrnn.lab.predict import Prediction


@dataclass(frozen=True, kw_only=True)
class PredictArguments(Common):
    """Say which class a run sees in pictures of any size.

    What is done to a picture before it is read is part of the network (data.pictures). IDX files
    are taken too, as they are. A picture that cannot be read gets a line on stderr, and the exit
    code is then 3.
    """

    run: Run
    paths: Annotated[Positional[tuple[Path, ...]], arg(metavar="PICTURE ...")]
    """PNG, JPEG or IDX files, directories of pictures, or patterns such as "scans/**/*.png"."""
    pictures: Literal["digit", "as_is"] | None = None
    """What is done to a picture, instead of what was done in training."""
    out: Annotated[Path | None, arg(metavar="FILE.csv|FILE.jsonl")] = None
    """Write the answers to this file, a line each, and do not print them."""
    checkpoint: Checkpoint = "last"
    rows: Flag = False
    """Show the prediction after each row."""


def main(arguments: Sequence[str]) -> int:
    """Classifies pictures."""
    given = parse("predict", PredictArguments, arguments)
    require_text(given.run)
    if not given.paths:
        raise ConfigError("predict needs at least one picture: rowrnn predict RUN PICTURE.png …")
    if given.out is not None and given.out.suffix.lower() not in (".csv", ".jsonl"):
        raise ConfigError(f"--out {given.out}: must end in .csv or .jsonl")

    require_jax()
    require_devices()
    from rowrnn.lab import predict

    how: dict[str, Any] = {"which": given.checkpoint, "pictures": given.pictures}
    if given.out is not None:
        written, failed = predict.write(
            given.out, predict.stream(given.run, given.paths, **how), say
        )
        tell_written(f"{given.out} ({count(written, 'picture')})")
        given.answer({"out": str(given.out), "pictures": written, "failed": failed})
        return DataError.exit_code if failed else 0
    predictions, problems = predict.predict(given.run, given.paths, **how)
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
    if prediction.runner_up is not None and prediction.runner_up_probability is not None:
        runner_up = plain(prediction.names[prediction.runner_up])
        then = f"then {runner_up} ({percent(prediction.runner_up_probability, 1)})"
    tell(
        f"{plain(prediction.path)}: {plain(prediction.name)} "
        f"({percent(prediction.probability, 1)}), "
        f"{then}{read_as}{prediction.warning and '; warning: ' + prediction.warning}",
        sys.stdout,
    )
    if rows:
        drawn, names = marks(), [plain(name) for name in prediction.names]
        longest = max(map(len, names))
        for row, (pixels, probabilities) in enumerate(
            zip(prediction.image, prediction.rows, strict=True), start=1
        ):
            grey = pixels.reshape(-1, prediction.channels).mean(axis=1)
            shaded = "".join(drawn.light[int(pixel) * 5 // 256] for pixel in grey)
            label = int(probabilities.argmax())
            bar = drawn.bar * round(20 * probabilities[label])
            sure = percent(probabilities[label], 1)
            print(f"{row:4d} {shaded} {names[label]:{longest}} {sure:>7} {bar}")
