"""Optimizers on flat vectors: each update is one fused TensorFlow op on the server's variables.

An optimizer holds no state. It declares its slots, vectors of the parameters' shape, and moves parameters and
slots in place through resource handles; so the same object serves one process, parameter servers and local
optimizers on workers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import tensorflow as tf

from tfnmt.settings import setting

_ADAM = {"optimizer": ("adam", "adamw")}
_COOLDOWN = {"adam_cooldown_updates": None}


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer moves the server parameters, and its constants."""

    optimizer: str = setting(
        "adam", "Server update.", choices=("sgd", "momentum", "nesterov", "adam", "adamw", "adagrad")
    )
    momentum: float = setting(
        0.9,
        "Share of the last update kept by momentum and nesterov.",
        minimum=0,
        below=1,
        only_with={"optimizer": ("momentum", "nesterov")},
    )
    adam_beta1: float = setting(0.9, "Decay of Adam's first moment.", minimum=0, below=1, only_with=_ADAM)
    adam_beta2: float = setting(0.98, "Decay of Adam's second moment.", minimum=0, below=1, only_with=_ADAM)
    adam_epsilon: float = setting(
        1e-9,
        "Added to the root of Adam's second moment, of the workers' local Adam too.",
        above=0,
        only_with={**_ADAM, "local_optimizer_batches": None},
    )
    adam_cooldown_updates: int = setting(
        0,
        "Server updates after which Adam's decays change to --adam_cooldown_beta1 and --adam_cooldown_beta2; 0 for "
        "never. Those of the workers' local optimizers stay.",
        minimum=0,
        only_with=_ADAM,
    )
    adam_cooldown_beta1: float = setting(
        0.92, "Decay of the first moment from then on.", minimum=0, below=1, only_with=_COOLDOWN
    )
    adam_cooldown_beta2: float = setting(
        0.998, "Decay of the second moment from then on.", minimum=0, below=1, only_with=_COOLDOWN
    )
    weight_decay: float = setting(
        0.01,
        "Share of the parameters that adamw removes per unit of learning rate.",
        minimum=0,
        only_with={"optimizer": ("adamw",)},
    )
    adagrad_start: float = setting(
        0.1, "First value of Adagrad's sum of squares.", above=0, only_with={"optimizer": ("adagrad",)}
    )


class Optimizer(Protocol):
    """How server parameters move.

    Attributes:
      slots: name and first value of each state vector; one without a value starts as the parameters.
      evaluated: the vector that is evaluated and saved: the parameters, or a slot.
      momentum: the slot that carries updates on, whose norm is reported; None where there is none.
      reads_sum: whether it reads the sum of the payloads, where others read their mean.
    """

    slots: Mapping[str, float | None] = {}
    evaluated: str = "parameters"
    momentum: str | None = None
    reads_sum: bool = False

    def apply(
        self,
        parameters: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        learning_rate: tf.Tensor,
        version: tf.Tensor,
    ) -> None:
        """Moves parameters and slots in place.

        Args:
          parameters: resource handle of the parameter vector [size].
          slots: resource handles by slot name, each of a vector [size].
          gradient: mean gradient per target token [size].
          learning_rate: scalar of the gradient's dtype.
          version: number of updates applied to parameters and slots before this one, a scalar.
        """


class Sgd(Optimizer):
    """Stochastic gradient descent: θ ← θ - α g."""

    def apply(self, parameters, slots, gradient, learning_rate, version) -> None:
        """See `Optimizer`."""
        tf.raw_ops.ResourceApplyGradientDescent(var=parameters, alpha=learning_rate, delta=gradient)


class Momentum(Optimizer):
    """Heavy ball, u ← μ u + g; θ ← θ - α u, or Nesterov's form, θ ← θ - α (g + μ u) (Sutskever et al., 2013)."""

    momentum: str | None = "velocity"

    def __init__(self, momentum: float, nesterov: bool = False):
        self.slots: Mapping[str, float | None] = {"velocity": 0.0}
        self._momentum, self._nesterov = momentum, nesterov

    def apply(self, parameters, slots, gradient, learning_rate, version) -> None:
        """See `Optimizer`."""
        tf.raw_ops.ResourceApplyMomentum(
            var=parameters,
            accum=slots["velocity"],
            lr=learning_rate,
            grad=gradient,
            momentum=tf.constant(self._momentum, gradient.dtype),
            use_nesterov=self._nesterov,
        )


class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015, algorithm 1); with a weight decay, AdamW (Loshchilov & Hutter, 2019).

    TensorFlow's op adds epsilon to the root of the *uncorrected* second moment, so epsilon is corrected here. The
    decays may change once, at the momentum cool-down of Bogoychev et al. (2018); as in their code, the corrections then
    read the new ones.
    """

    def __init__(self, settings: OptimizerSettings, weight_decay: float = 0.0):
        """Takes the decays and epsilon from `settings`."""
        self.slots: Mapping[str, float | None] = {"m": 0.0, "v": 0.0}
        self._settings, self._weight_decay = settings, weight_decay

    def apply(self, parameters, slots, gradient, learning_rate, version) -> None:
        """See `Optimizer`."""
        dtype = gradient.dtype
        if self._weight_decay:
            _decay(parameters, learning_rate * self._weight_decay, dtype)
        beta1, beta2 = tf.unstack(self._decays(version, dtype))
        update = tf.cast(version + 1, dtype)
        beta2_power = beta2**update
        tf.raw_ops.ResourceApplyAdam(
            var=parameters,
            m=slots["m"],
            v=slots["v"],
            beta1_power=beta1**update,
            beta2_power=beta2_power,
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            epsilon=self._settings.adam_epsilon * tf.sqrt(1 - beta2_power),
            grad=gradient,
        )

    def _decays(self, version: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """β1 and β2 of the update behind `version`, [2]."""
        settings = self._settings
        before = tf.constant([settings.adam_beta1, settings.adam_beta2], dtype)
        if settings.adam_cooldown_updates:
            after = tf.constant([settings.adam_cooldown_beta1, settings.adam_cooldown_beta2], dtype)
            return tf.where(version < settings.adam_cooldown_updates, before, after)
        return before


class Adagrad(Optimizer):
    """Adagrad (Duchi et al., 2011): s ← s + g²; θ ← θ - α g / √s."""

    def __init__(self, start: float):
        self.slots: Mapping[str, float | None] = {"sum_of_squares": start}

    def apply(self, parameters, slots, gradient, learning_rate, version) -> None:
        """See `Optimizer`."""
        tf.raw_ops.ResourceApplyAdagradV2(
            var=parameters,
            accum=slots["sum_of_squares"],
            lr=learning_rate,
            # Where no gradient has been, as in a vector's padding behind a resume, 0 / 0 would spoil the vector's norm.
            epsilon=tf.constant(1e-30, gradient.dtype),
            grad=gradient,
        )


def build_optimizer(settings: OptimizerSettings) -> Optimizer:
    """The optimizer that `settings` names."""
    builders: dict[str, Callable[[], Optimizer]] = {
        "sgd": Sgd,
        "momentum": lambda: Momentum(settings.momentum),
        "nesterov": lambda: Momentum(settings.momentum, nesterov=True),
        "adam": lambda: Adam(settings),
        "adamw": lambda: Adam(settings, settings.weight_decay),
        "adagrad": lambda: Adagrad(settings.adagrad_start),
    }
    return builders[settings.optimizer]()


def local_optimizer(settings: OptimizerSettings) -> Optimizer:
    """A worker's own optimizer, whose updates say nothing about when the servers' momentum cools down."""
    return build_optimizer(dataclasses.replace(settings, adam_cooldown_updates=0))


def _decay(parameters: tf.Tensor, share: tf.Tensor, dtype: tf.DType) -> None:
    value = tf.raw_ops.ReadVariableOp(resource=parameters, dtype=dtype)
    tf.raw_ops.AssignSubVariableOp(resource=parameters, value=share * value)
