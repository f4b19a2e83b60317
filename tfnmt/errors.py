"""The exceptions that a user is meant to read."""

from collections.abc import Sequence


class UserError(Exception):
    """Something only the user can mend: shown as plain text, without a stack trace.

    Args:
      faults: one sentence for each fault, naming the flag or the file, what is wrong with it and the remedy.
    """

    def __init__(self, *faults: str):
        super().__init__("\n".join(faults))
        self.faults = faults


class LostError(UserError):
    """A task of a cluster is gone or silent. Starting the run again goes on from its newest checkpoint."""

    exit_code = 75


def refuse(faults: Sequence[str]) -> None:
    """Raises one `UserError` that holds all the faults; does nothing when there are none."""
    if faults:
        raise UserError(*faults)
