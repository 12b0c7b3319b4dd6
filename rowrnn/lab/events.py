"""When a host loop has something to do."""

from typing import NamedTuple

from rowrnn.core.experiment import Experiment


class Events(NamedTuple):
    """At which steps a host loop has something to do: multiples of these, and the last.

    Attributes:
        total: length of the run.
        epoch: one pass over the training part.
        log: between two entries of the metrics log.
        evaluate: between two evaluations on the validation part.
        save: between two checkpoints; 0 where they are saved by time.
    """

    total: int
    epoch: int
    log: int
    evaluate: int
    save: int

    @classmethod
    def of(cls, experiment: Experiment) -> "Events":
        """The events of an experiment."""
        config, epoch = experiment.config, experiment.epoch_steps
        every_epoch = epoch if config.checkpoint.every_epoch else 0
        return cls(
            total=experiment.steps,
            epoch=epoch,
            log=config.train.log_every_steps,
            evaluate=config.train.eval_every_steps or epoch,
            save=config.checkpoint.every_steps or every_epoch,
        )

    def after(self, step: int) -> int:
        """The next step at which something is due; a chunk never crosses it."""
        periods = filter(None, (self.epoch, self.log, self.evaluate, self.save))
        return min(self.total, *(step - step % period + period for period in periods))

    def due(self, step: int, period: int) -> bool:
        """Whether an event of this period falls on a step; all fall on the last."""
        return step == self.total or (period > 0 and step % period == 0)
