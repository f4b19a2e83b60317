"""What a worker exchanges with the servers, as pure functions on the vectors that it holds: the `Exchange` of a row."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from graphs.local_steps import clipped_mean
from graphs.work import Sums

Vectors = Mapping[str, Any]
"""Vectors [size] by name. They may be tensors or variables: an operation reads a variable when it runs."""


class Gradient(NamedTuple):
    """The gradient of one local step, as an exchange sees it."""

    sum: tf.Tensor  # [size], over the target tokens
    target_tokens: tf.Tensor  # scalar of the same dtype
    clip_norm: float  # largest norm of the mean; 0 for no clipping

    def mean(self) -> tf.Tensor:
        """The mean over the target tokens [size], clipped."""
        return clipped_mean(self.sum, self.target_tokens, self.clip_norm)


class Exchange(Protocol):
    """What a worker exchanges with the servers: pure functions on the vectors that the worker holds.

    `held` has the worker's replica under the name `REPLICA`, and the vectors that `keeps` names; of each, a pull and a
    push see the fragment that travels. A function returns new values, by name, of the vectors that it changes; the
    others stay as they are.

    Attributes:
      name: what a payload is, in words.
      keeps: names of the vectors that a worker holds beside its replica.
      saved: names of the held vectors that the next block needs as they are, so that checkpoints must hold them.
      trains_replicas: whether the servers move by what local updates have made of the replicas; otherwise they move by
        gradients. With trained replicas, `gather` does not depend on `first`.
      clips_at_servers: whether the servers clip the mean of the payloads, which then must be sums of gradients over
        their target tokens.
    """

    name: str
    keeps: Sequence[str]
    saved: Sequence[str]
    trains_replicas: bool
    clips_at_servers: bool

    def pull(self, held: Vectors, servers: tf.Tensor) -> Vectors:
        """The vectors that change when the server parameters [size] arrive, which are all that a worker begins with."""

    def gather(self, held: Vectors, gradient: Gradient, first: bool) -> Vectors:
        """The vectors that change with a step's gradient; `first` if no step came before it since the last push."""

    def push(self, held: Vectors) -> tuple[Any, Vectors]:
        """The payload [size], and the vectors that change when the worker pushes it."""

    def weight(self, sums: Sums) -> Any:
        """A payload's weight from the sums of its steps, a scalar: servers divide summed payloads by summed weights."""

    def averaged(self, sums: Sums) -> tuple[Any, Any]:
        """The target tokens and batches over which payloads with these sums average a gradient, for the laws."""
