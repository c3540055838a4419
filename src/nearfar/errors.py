"""What nearfar says when it cannot go on: one class per kind of mistake, each telling what, where, found and how to mend it.

A face (the command line, a service) prints the message and never the stack; everything else may catch `NearfarError`.
"""


class NearfarError(Exception):
    """Base of every error nearfar raises on purpose. `exit_code` is what the command line returns for it."""

    exit_code = 2


class BadInput(NearfarError):
    """The user's data or arguments cannot be used: says which file and line (or argument), what was found, how to mend it."""


class BadConfig(NearfarError):
    """A setting is unknown or has an impossible value; names the nearest settings."""


class Damaged(NearfarError):
    """A file that nearfar wrote is torn, truncated or altered: names the file and what does not match."""


class Mismatch(NearfarError):
    """Two things that must belong together do not: an index and a model, a run and its inputs, vectors of two widths."""


class Missing(NearfarError):
    """Something that is not installed or not there is needed: says what, and the command that brings it."""


class Diverged(NearfarError):
    """Training produced a loss or a weight that is not finite: names the step, and where the batch was written."""

    exit_code = 1


class Unfaithful(NearfarError):
    """An export does not compute what its model computes: says by how much, and what was expected. Nothing is left of it."""

    exit_code = 1


class CannotWrite(NearfarError):
    """A file cannot be written (disk full, no permission, read-only): names it, the free space, and what is kept.

    `number` is the errno of the refusal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Interrupted(KeyboardInterrupt):
    """Stopped by a signal, with a sentence on what was kept. A `KeyboardInterrupt`, so that no `except NearfarError` swallows it."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal

    @property
    def exit_code(self) -> int:
        """As a shell counts it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal
