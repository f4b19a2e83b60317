"""The settings of a Transformer, and the parameters that follow from them."""

import dataclasses

from tfnmt.layout import Parameter
from tfnmt.models import layers
from tfnmt.models.base import ModelSettings
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class TransformerSettings(ModelSettings):
    """What a Transformer has beyond any model."""

    heads: int = setting(4, "Attention heads H; they divide the width.", minimum=1)
    feed_forward_width: int = setting(1024, "Width F of the feed-forward layers.", minimum=1)
    normalization: str = setting(
        "pre", "Layer normalization before each sub-layer (pre) or after it (post).", choices=("pre", "post")
    )
    attention_dropout: float = setting(0.0, "Share of attention weights dropped.", minimum=0, maximum=0.9)
    feed_forward_dropout: float = setting(0.0, "Share of hidden feed-forward units dropped.", minimum=0, maximum=0.9)

    def faults(self) -> list[str]:
        """Heads that do not divide the width."""
        if self.width % self.heads == 0:
            return []
        return [f"--heads={self.heads}: must divide --width={self.width}; take another number of heads."]


def declare(settings: TransformerSettings) -> list[Parameter]:
    """The parameters behind the embedding tables, in the order in which the layout packs them."""
    width, pre = settings.width, settings.normalization == "pre"
    declared: list[Parameter] = []
    for layer in range(settings.encoder_layers):
        declared += _self_attention_parameters(f"encoder/{layer}", width)
        declared += _feed_forward_parameters(f"encoder/{layer}", settings)
    if pre:
        declared += layers.norm_parameters("encoder/norm", width)
    blocks = 2 * settings.decoder_layers
    declared += layers.dense_parameters("decoder/memory", width, blocks * width, blocks=blocks)
    for layer in range(settings.decoder_layers):
        declared += _self_attention_parameters(f"decoder/{layer}", width)
        declared += _cross_attention_parameters(f"decoder/{layer}", width)
        declared += _feed_forward_parameters(f"decoder/{layer}", settings)
    return declared + (layers.norm_parameters("decoder/norm", width) if pre else [])


def _self_attention_parameters(layer: str, width: int) -> list[Parameter]:
    name = f"{layer}/self_attention"
    return [
        *layers.norm_parameters(f"{name}/norm", width),
        *layers.dense_parameters(f"{name}/query_key_value", width, 3 * width, blocks=3),
        *layers.dense_parameters(f"{name}/output", width, width),
    ]


def _cross_attention_parameters(layer: str, width: int) -> list[Parameter]:
    name = f"{layer}/cross_attention"
    return [
        *layers.norm_parameters(f"{name}/norm", width),
        *layers.dense_parameters(f"{name}/query", width, width),
        *layers.dense_parameters(f"{name}/output", width, width),
    ]


def _feed_forward_parameters(layer: str, settings: TransformerSettings) -> list[Parameter]:
    name, width, hidden = f"{layer}/feed_forward", settings.width, settings.feed_forward_width
    return [
        *layers.norm_parameters(f"{name}/norm", width),
        *layers.dense_parameters(f"{name}/hidden", width, hidden),
        *layers.dense_parameters(f"{name}/output", hidden, width),
    ]
