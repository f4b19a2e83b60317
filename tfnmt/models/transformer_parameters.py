"""The settings of a Transformer, and the parameters that follow from them."""

import dataclasses

from tfnmt.layout import Parameter
from tfnmt.models import layers
from tfnmt.models.base import ModelSettings
from tfnmt.settings import setting

MEMORY = "decoder/memory"
"""Makes keys and values of all decoder layers at once, side by side."""


@dataclasses.dataclass(frozen=True)
class TransformerSettings(ModelSettings):
    """The settings of a Transformer beside those of every model."""

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
        declared += _self_attention(f"encoder/{layer}", width)
        declared += _feed_forward(f"encoder/{layer}", settings)
    if pre:
        declared += layers.norm_parameters("encoder/norm", width)
    blocks = 2 * settings.decoder_layers
    declared += layers.dense_parameters(MEMORY, width, blocks * width, blocks=blocks)
    for layer in range(settings.decoder_layers):
        declared += _self_attention(f"decoder/{layer}", width)
        declared += _sub_layer(f"decoder/{layer}/cross_attention", "query", width, width)
        declared += _feed_forward(f"decoder/{layer}", settings)
    return declared + (layers.norm_parameters("decoder/norm", width) if pre else [])


def _self_attention(layer: str, width: int) -> list[Parameter]:
    return _sub_layer(f"{layer}/self_attention", "query_key_value", width, width, blocks=3)


def _feed_forward(layer: str, settings: TransformerSettings) -> list[Parameter]:
    return _sub_layer(f"{layer}/feed_forward", "hidden", settings.width, settings.feed_forward_width)


def _sub_layer(name: str, first: str, width: int, inner_width: int, blocks: int = 1) -> list[Parameter]:
    """Layer normalization, a first dense layer that makes so many `blocks` of the inner width, and one back."""
    return [
        *layers.norm_parameters(f"{name}/norm", width),
        *layers.dense_parameters(f"{name}/{first}", width, blocks * inner_width, blocks=blocks),
        *layers.dense_parameters(f"{name}/output", inner_width, width),
    ]
