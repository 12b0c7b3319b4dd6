"""What a run or a sweep shows while it works."""

import importlib.util
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from rowrnn.config import TrainConfig


class Display:
    """What a loop tells of its progress; this one shows nothing of it."""

    def advance(self, done: int, facts: str) -> None:
        """Tells how much of the total is done, and what is known now, in a line."""

    def close(self) -> None:
        """Tells that the loop has ended, by itself or not."""


class ProgressDisplay(Display):
    """A live bar on stderr or in a notebook; elsewhere a line at every tenth of the way.

    The line at the end of the way waits until it is closed, and so tells of all that has ended.

    Args:
        total: what there is to do, such as steps of a run or examples of all members of a sweep.
        done: how much of it is done already.
    """

    def __init__(self, total: int, done: int = 0):
        self._console = Console(stderr=True)
        self._total = max(1, total)
        self._tenth, self._last = 0, ""
        # Rich needs ipywidgets to draw in a notebook; without them it only asks for them.
        in_notebook = self._console.is_jupyter and importlib.util.find_spec("ipywidgets")
        self._is_live = self._console.is_terminal or bool(in_notebook)
        self._progress = Progress(
            BarColumn(bar_width=8),
            _FactsColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._is_live,
        )
        self._task = self._progress.add_task("", total=self._total, completed=done)
        self._progress.start()

    def advance(self, done: int, facts: str) -> None:
        """Moves the bar, or prints a line."""
        line = f"{min(100, 100 * done // self._total):3d}%  {facts}"
        self._progress.update(self._task, completed=done, facts=line)
        tenth = done * 10 // self._total
        if not self._is_live and tenth >= 10:
            self._last = line
        elif not self._is_live and tenth > self._tenth:
            self._tenth = tenth
            print(line, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it stands and gives the terminal back."""
        self._progress.stop()
        if self._last:
            print(self._last, file=sys.stderr)


class _FactsColumn(ProgressColumn):
    """The facts of the last chunk, cut where the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("facts", "compiling …"), overflow="ellipsis", no_wrap=True)


class NotebookDisplay(Display):
    """The lines of the 2015 notebook, on stdout.

    >>> NotebookDisplay(128).batch(10, 1.576423, 0.515625)
    Iter 1280, Minibatch Loss= 1.576423, Training Accuracy= 0.51562
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size

    def batch(self, step: int, loss: float, accuracy: float) -> None:
        """Loss and accuracy on the batch of `step`, after its update."""
        print(
            f"Iter {step * self._batch_size}, Minibatch Loss= {loss:.6f}, "
            f"Training Accuracy= {accuracy:.5f}",
            flush=True,
        )

    def finish(self, first256_accuracy: float) -> None:
        """The two lines that the notebook ends with."""
        print("Optimization Finished!")
        print(f"Testing Accuracy: {first256_accuracy:.6g}", flush=True)


def make_display(config: TrainConfig, total: int, done: int = 0) -> Display:
    """The display that a config asks for."""
    match config.display:
        case "notebook":
            return NotebookDisplay(config.batch_size)
        case "progress" if done < total:
            return ProgressDisplay(total, done)
        case _:
            return Display()


def run_facts(examples_per_s: float, loss: float, accuracy: float, validation: float | None) -> str:
    """A line on a run; loss and accuracy are those of the training batches.

    >>> run_facts(12345.6, 0.1234, 0.9871, 0.98123)
    '12,346 examples/s  loss 0.123  acc 0.987  val 0.9812'
    """
    text = f"{examples_per_s:,.0f} examples/s  loss {loss:.3f}  acc {accuracy:.3f}"
    return text if validation is None else f"{text}  val {validation:.4f}"
