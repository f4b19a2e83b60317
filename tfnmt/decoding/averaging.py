"""The mean of several checkpoints' parameters."""

from collections.abc import Sequence

import numpy as np

from tfnmt.checkpoints import Checkpoint
from tfnmt.errors import UserError


def average(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """A checkpoint of the newest update with the mean of the parameters, summed in float64, and no training state.

    Raises:
      UserError: the checkpoints are of different models.
    """
    shapes = [{name: array.shape for name, array in each.parameters.items()} for each in checkpoints]
    for checkpoint, own in zip(checkpoints, shapes):
        if own != shapes[0]:
            raise UserError(
                f"The checkpoints of updates {checkpoints[0].update} and {checkpoint.update} are of different models."
            )
    updates = [checkpoint.update for checkpoint in checkpoints]
    parameters = {name: _mean([each.parameters[name] for each in checkpoints]) for name in shapes[0]}
    return Checkpoint(update=max(updates), parameters=parameters, state={}, progress={"averaged_updates": updates})


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros(arrays[0].shape, np.float64)
    for array in arrays:
        total += array
    return (total / len(arrays)).astype(arrays[0].dtype)
