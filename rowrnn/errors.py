"""Errors that a user can act on, each with the exit code the command line gives it.

Every message names the thing, its value, what would be right and what to do next. The command
line prints the message without a traceback (``--debug`` shows it) and exits with ``exit_code``.
"""


class RowRNNError(Exception):
    """Base of every error rowrnn raises on purpose.

    Attributes:
        exit_code: of the command line.
        on_all: whether all processes of a job raise it, of which process 0 says it.
    """

    exit_code = 1
    on_all = False


class ConfigError(RowRNNError):
    """A flag, a config file or a combination of values is wrong."""

    exit_code = 2


class DataError(RowRNNError):
    """A dataset or picture is missing, damaged or not what it claims to be."""

    exit_code = 3


class RunError(RowRNNError):
    """A run directory or checkpoint is missing, in use, damaged or does not fit."""

    exit_code = 4


class DivergedError(RowRNNError):
    """The loss or a gradient stopped being finite."""

    exit_code = 5
    on_all = True


class JobError(RowRNNError):
    """A process of a job was lost, or could not join it."""

    exit_code = 7


class StoppedError(RowRNNError):
    """A signal ended the run after it was saved; ``--resume`` goes on from there."""

    exit_code = 75
    on_all = True
