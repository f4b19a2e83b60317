"""A model: declared parameters and functions of their named views."""

import abc
import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from tfnmt.batch import Batch
from tfnmt.errors import refuse
from tfnmt.layout import Parameter
from tfnmt.models.layers import Views
from tfnmt.models.tables import Tables, tying_faults
from tfnmt.settings import faults_of, setting

Nest = Any
"""A nested structure of tensors."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The settings of every model."""

    width: int = setting(256, "Model width D.", minimum=1)
    encoder_layers: int = setting(3, "Layers of the encoder.", minimum=1)
    decoder_layers: int = setting(3, "Layers of the decoder.", minimum=1)
    dropout: float = setting(0.1, "Share of activations dropped during training.", minimum=0, maximum=0.9)
    label_smoothing: float = setting(0.1, "Probability spread evenly over the vocabulary.", minimum=0, maximum=0.9)
    tied_embeddings: str = setting(
        "all",
        "Matrices that share one parameter: target embedding and output projection (target), the source embedding "
        "too (all; needs a joint vocabulary), or none.",
        choices=("all", "target", "none"),
    )
    precision: str = setting(
        "float32", "Arithmetic of the layers; parameters stay in float32.", choices=("float32", "bfloat16")
    )


class LossSums(NamedTuple):
    """Sums over the target tokens of a batch; divide once, by the tokens of the whole update."""

    loss: tf.Tensor  # scalar: label-smoothed cross entropy, nats; this is what is differentiated
    cross_entropy: tf.Tensor  # scalar: cross entropy against the reference, nats
    target_tokens: tf.Tensor  # scalar, the loss's dtype


class Model(abc.ABC):
    """A translation model. It holds no state: parameters come in as views, randomness as a seed.

    It computes in `settings.precision`, or in the dtype of the views where that is float64.
    """

    settings: ModelSettings
    parameters: tuple[Parameter, ...]  # what it declares, in the order in which the layout packs them

    def __init__(self, settings: ModelSettings, source_size: int, target_size: int, table_width: int):
        """Names the embedding tables, of `table_width` columns, for vocabularies of these sizes.

        Raises:
          UserError: the settings contradict each other or the vocabularies.
        """
        refuse(faults_of(settings) + tying_faults(settings.tied_embeddings, source_size, target_size))
        self.settings = settings
        self._tables = Tables(settings.tied_embeddings, table_width, source_size, target_size)
        self._target_vocabulary_size = target_size

    @abc.abstractmethod
    def loss(self, views: Views, batch: Batch, seed: tf.Tensor | None = None) -> LossSums:
        """The loss of `batch`.

        Args:
          views: the parameters.
          batch: sentence pairs; the decoder reads BEGIN_ID followed by `target_ids` without their last column.
          seed: stateless seed, int32 [2], of this step's dropout; None for no dropout.
        """

    @abc.abstractmethod
    def log_probabilities(self, views: Views, batch: Batch) -> tf.Tensor:
        """Log-probability of each target token, float32 [B, T]; zero on padding."""

    def cast(self, views: Views) -> Views:
        """The views in the dtype that the layers read them in, for a caller who uses them many times.

        The other functions take views before and after it; what they compute is the same.
        """
        return views

    @abc.abstractmethod
    def encode(self, views: Views, source_ids: tf.Tensor) -> Nest:
        """The memory of `source_ids` [B, S] that the decoder reads: tensors, first dimension B. It never changes."""

    @abc.abstractmethod
    def start(self, views: Views, memory: Nest, beams: int, length: tf.Tensor) -> Nest:
        """The decoder's cache before the first token: tensors whose first dimensions are [B, beams].

        At most `length` steps, an int32 scalar, will be taken.
        """

    @abc.abstractmethod
    def step(
        self, views: Views, memory: Nest, cache: Nest, previous_ids: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, Nest, tf.Tensor]:
        """One token for each hypothesis.

        Args:
          views: the parameters.
          memory: what `encode` returned, first dimension B.
          cache: what `start` or the last `step` returned, first dimensions [B, K].
          previous_ids: int32 [B, K], the token chosen before; BEGIN_ID at first.
          step: int32 scalar, 0 for the first token.

        Returns:
          logits float32 [B, K, V], the cache behind this token (its tensors may grow along any dimension but the
          first two and the last), and attention float32 [B, K, S], each row a distribution over the source.
        """

    @abc.abstractmethod
    def operations_per_pair(self, source_length: int, target_length: int) -> float:
        """Operations of the matrix products of one training step on one sentence pair of these lengths.

        Multiplications and additions are counted, forward and backward.
        """
