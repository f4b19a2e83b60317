"""The exceptions that a user is meant to read."""

import errno
from collections.abc import Sequence

_NO_ROOM, _ELSEWHERE = "Make room there.", "Choose a place that this user can use."
_OF_THE_DISK = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
}
"""Number of an error of the operating system that the user can mend -> the remedy."""


class UserError(Exception):
    """Something only the user can mend: shown as plain text, without a stack trace.

    Each fault is one sentence that names the flag or the file, what is wrong with it and the remedy.
    """

    exit_code = 2

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


def fault_of_the_disk(error: Exception) -> str | None:
    """The fault that the user has to mend where a disk is full or closed to us; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _OF_THE_DISK:
        return None
    path, remedy = error.filename2 or error.filename, _OF_THE_DISK[error.errno]
    if path is None and remedy != _NO_ROOM:
        return None  # The error need not be about a file.
    return f"{path or 'standard output, or a file'}: {error.strerror}. {remedy}"
