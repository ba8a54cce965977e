"""Errors that a user can act on.

ManymaskError
├── DatasetError      a folder, image or label that cannot be used as it is
│   └── FormatError   a file whose content is not what its format promises
├── PlanError         a setting that does not exist, is out of range or does not fit the others
├── CheckpointError   a checkpoint or weights file that cannot be read, or is not ours
├── BrokenImagesError some of many images could not be predicted; the others were
└── TrainingError     training cannot go on: loss is NaN, memory or disk is full
    └── LostProcess   another of the processes that train together has ended

Each message says what was expected, what was found, in which file, and what to do. The command line prints such an
error as one line and exits with 2 (1 for ``BrokenImagesError``); every other exception is a bug and keeps its
traceback.
"""

import signal


class ManymaskError(Exception):
    """Base of every error that manymask raises on purpose.

    Attributes:
        exit_code: What the command line ends with.
    """

    exit_code = 2


class DatasetError(ManymaskError):
    """A folder, image or label cannot be used as it is."""


class FormatError(DatasetError):
    """The content of a file is not what its format promises."""


class PlanError(ManymaskError):
    """A setting does not exist, is out of range or does not fit the others."""


class CheckpointError(ManymaskError):
    """A checkpoint or weights file cannot be read, or is not one of manymask's."""


class TrainingError(ManymaskError):
    """Training cannot go on."""


class LostProcess(TrainingError):  # noqa: N818 - what happened, not what is wrong
    """Another of the processes that train together has ended."""


class BrokenImagesError(ManymaskError):
    """Some of many images cannot be predicted; the results of the others are written."""

    exit_code = 1


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Ctrl-C or SIGTERM ended training between two batches; the run can be resumed."""

    def __init__(self, signal_number: int, remedy: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; {remedy}")
        self.signal_number, self.remedy = signal_number, remedy

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int, str]]:
        """An experiment's processes hand it over."""
        return Interrupted, (self.signal_number, self.remedy)
