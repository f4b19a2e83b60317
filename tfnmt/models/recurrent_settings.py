"""The settings of a recurrent model."""

import dataclasses

from tfnmt.models.base import ModelSettings
from tfnmt.models.cells import CELLS, DeepCell
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class RecurrentSettings(ModelSettings):
    """The settings of a recurrent model beside those of every model; its width D is that of a state."""

    cell: str = setting("gru", "Recurrent cell.", choices=tuple(CELLS))
    embedding_width: int = setting(256, "Width E of the embeddings and of what the projection reads.", minimum=1)
    attention_width: int = setting(256, "Width A of the attention's hidden layer.", minimum=1)
    encoder_type: str = setting(
        "bidirectional",
        "Each of the encoder's two stacks reads one way (bidirectional) or turns with each layer (alternating).",
        choices=("bidirectional", "alternating"),
    )
    transition_depth: int = setting(1, "Cells that a state passes through for each token, in each layer.", minimum=1)
    recurrent_normalization: bool = setting(False, "Layer normalization in cells, attention and output.")
    state_dropout: float = setting(
        0.0, "Share of a state dropped on its way to the next token, during training.", minimum=0, maximum=0.9
    )
    word_dropout: float = setting(0.0, "Share of the words that are not read, during training.", minimum=0, maximum=0.9)


def deep_cell(settings: RecurrentSettings, name: str, input_width: int) -> DeepCell:
    """The cells of one layer, whose inputs have `input_width` columns."""
    kind, depth = CELLS[settings.cell], settings.transition_depth
    return DeepCell(kind, name, settings.width, input_width, depth, settings.recurrent_normalization)
