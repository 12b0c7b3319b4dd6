"""What a training run shows while it works."""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from rowrnn.config import TrainConfig


class Display:
    """What the training loop tells of its progress; this one shows nothing of it."""

    def advance(self, step: int, loss: float, accuracy: float, examples_per_s: float) -> None:
        """A chunk has ended at `step`; loss and accuracy are those of its training batches."""

    def validation(self, accuracy: float) -> None:
        """An evaluation on the validation part has ended."""

    def close(self) -> None:
        """The loop has ended, by itself or not."""


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


class ProgressDisplay(Display):
    """A live bar on stderr; where stderr is no terminal, a line at every tenth of the way."""

    def __init__(self, total_steps: int, first_step: int):
        self._console = Console(stderr=True)
        self._total = total_steps
        self._tenth = 0
        self._validation = ""
        self._progress = Progress(
            BarColumn(bar_width=12),
            _FactsColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total_steps, completed=first_step)
        self._progress.start()

    def advance(self, step: int, loss: float, accuracy: float, examples_per_s: float) -> None:
        """Moves the bar, or prints a line."""
        facts = (
            f"{100 * step // self._total:3d}%  {examples_per_s:,.0f} examples/s  "
            f"loss {loss:.3f}  acc {accuracy:.3f}{self._validation}"
        )
        self._progress.update(self._task, completed=step, facts=facts)
        tenth = step * 10 // self._total
        if not self._console.is_terminal and tenth > self._tenth:
            self._tenth = tenth
            print(facts, file=sys.stderr)

    def validation(self, accuracy: float) -> None:
        """Keeps the figure, to be shown from the next chunk on."""
        self._validation = f"  val {accuracy:.4f}"

    def close(self) -> None:
        """Leaves the bar as it stands and gives the terminal back."""
        self._progress.stop()


class SweepDisplay:
    """Progress of a sweep on stderr: a live bar, or a line at every tenth of the way.

    Args:
        total_examples: of all members that are still to be trained.
        members: how many there are in all, and `reused` of them known from before.
        shown: whether to show anything.
    """

    def __init__(self, total_examples: int, members: int, reused: int, *, shown: bool):
        self._console = Console(stderr=True)
        self._shown = shown
        self._total = max(1, total_examples)
        self._done, self._tenth = 0, 0
        self._members, self._recorded, self._failed = members, reused, 0
        self._throughput, self._estimate = "", ""
        self._progress = Progress(
            BarColumn(bar_width=12),
            _FactsColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
        )
        self._task = self._progress.add_task("", total=self._total)
        self._progress.start()

    def advance(self, examples: int, examples_per_s: float | None) -> None:
        """A chunk has ended, or was found done; over all members it was of so many examples."""
        self._done += examples
        if examples_per_s is not None:
            self._throughput = f"{examples_per_s:,.0f} seed·examples/s"
        self._show()

    def record(self, completed: int, failed: int, estimate: str | None) -> None:
        """Members have ended; `estimate` is what is known of all so far, None if that is shown."""
        self._recorded += completed + failed
        self._failed += failed
        if estimate is not None:
            self._estimate = estimate
        self._show()

    def close(self) -> None:
        """Leaves the bar as it stands and gives the terminal back."""
        self._progress.stop()

    def _show(self) -> None:
        failed = f", {self._failed} failed" if self._failed else ""
        facts = "  ".join(
            filter(
                None,
                [
                    f"{self._recorded}/{self._members} members{failed}",
                    self._throughput,
                    self._estimate,
                ],
            )
        )
        self._progress.update(self._task, completed=self._done, facts=facts)
        tenth = self._done * 10 // self._total
        if self._shown and not self._console.is_terminal and tenth > self._tenth:
            self._tenth = tenth
            print(f"{min(100, 100 * self._done // self._total):3d}%  {facts}", file=sys.stderr)


class _FactsColumn(ProgressColumn):
    """Throughput, loss and accuracy of the last chunk, cut where the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("facts", "compiling …"), overflow="ellipsis", no_wrap=True)


def make_display(config: TrainConfig, total_steps: int, first_step: int) -> Display:
    """The display that a config asks for, for a run that begins at `first_step`."""
    match config.display:
        case "notebook":
            return NotebookDisplay(config.batch_size)
        case "progress":
            return ProgressDisplay(total_steps, first_step)
        case _:
            return Display()
