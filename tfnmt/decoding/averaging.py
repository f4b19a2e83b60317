"""The mean of several checkpoints' parameters."""

from collections.abc import Iterable

import numpy as np

from tfnmt.checkpoints import Checkpoint
from tfnmt.errors import UserError


def average(checkpoints: Iterable[Checkpoint]) -> Checkpoint:
    """A checkpoint of the newest update with the mean of the parameters, and without training state.

    The checkpoints, at least one, are taken one after the other, so that an iterator need not hold them all.

    Raises:
      UserError: the checkpoints are of different models.
    """
    updates: list[int] = []
    sums: dict[str, np.ndarray] = {}
    for checkpoint in checkpoints:
        arrays = checkpoint.parameters
        sums = sums or {name: np.zeros(array.shape, np.float64) for name, array in arrays.items()}
        if {name: array.shape for name, array in arrays.items()} != {name: total.shape for name, total in sums.items()}:
            raise UserError(f"The checkpoints of updates {updates[0]} and {checkpoint.update} are of different models.")
        for name, array in arrays.items():
            sums[name] += array
        updates.append(checkpoint.update)
    parameters = {name: (total / len(updates)).astype(np.float32) for name, total in sums.items()}
    return Checkpoint(update=max(updates), parameters=parameters, state={}, progress={"averaged_updates": updates})
