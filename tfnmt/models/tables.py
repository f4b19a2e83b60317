"""The embedding tables of a model, and which of them is the output projection too."""

from tfnmt.layout import Parameter
from tfnmt.models import layers


class Tables:
    """The tables that `--tied_embeddings` leaves of three.

    Attributes:
      source: name of the table that embeds source tokens.
      target: of the one that embeds target tokens.
      output: of the one that projects onto them.
      parameters: one for each table that there is.
    """

    def __init__(self, tied: str, width: int, source_size: int, target_size: int):
        """Names and declares the tables for `--tied_embeddings` and the tokens of either vocabulary."""
        self.source, self.target = ("embedding",) * 2 if tied == "all" else ("encoder/embedding", "decoder/embedding")
        self.output = "output/kernel" if tied == "none" else self.target
        sizes = {self.source: source_size, self.target: target_size, self.output: target_size}
        shared = (self.target, self.output)
        self.parameters: list[Parameter] = [
            layers.embedding_parameter(name, size, width, looked_up=name not in shared) for name, size in sizes.items()
        ]


def tying_faults(tied: str, source_size: int, target_size: int) -> list[str]:
    """Vocabularies that cannot share a table."""
    if tied != "all" or source_size == target_size:
        return []
    return [
        f"--tied_embeddings=all: needs one joint vocabulary, but the source has {source_size} tokens and the "
        f"target {target_size}; take --tied_embeddings=target, or train a joint vocabulary."
    ]
