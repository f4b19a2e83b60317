"""The flags that say which text is read and how it is made into batches."""

import dataclasses
import math

from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Files, filters and batches."""

    data: str = setting("", "Directory with train.LANGUAGE and validation.LANGUAGE files, as tfnmt-corpus makes it.")
    languages: str = setting("", "Source and target language of --data, such as en-de.")
    train_source: tuple[str, ...] = setting(
        (), "Files of source lines to train on (plain or .gz), or tab-separated files when there is no --train_target."
    )
    train_target: tuple[str, ...] = setting((), "Files of target lines, one for each of --train_source, in its order.")
    validation_source: tuple[str, ...] = setting((), "Files of source lines to validate on; tab-separated as above.")
    validation_target: tuple[str, ...] = setting((), "Files of target lines, one for each of --validation_source.")
    batch_tokens: int = setting(4096, "Target positions in a worker's batch, padding included.", minimum=8)
    source_batch_tokens: int = setting(
        0,
        "Source positions in a worker's batch, padding included; 0 for one and a half times --batch_tokens.",
        minimum=0,
    )
    max_length: int = setting(
        256,
        "Longer sentences, in tokens with the end token, are left out of training; at most --batch_tokens.",
        minimum=2,
    )
    max_length_ratio: float = setting(
        6.0, "Training pairs with a side this many times as many tokens as the other are left out.", minimum=1
    )
    shuffle_buffer: int = setting(200_000, "Sentence pairs held in memory and shuffled together.", minimum=1)
    pool_pairs: int = setting(
        30_000, "Sentence pairs sorted by length together; the more, the less padding.", minimum=1
    )
    subword_nbest: int = setting(
        0,
        "Subword sampling in training: 0 for none, above 1 from so many best segmentations, -1 from all. Such runs are "
        "not repeatable bit by bit.",
        minimum=-1,
    )
    subword_alpha: float = setting(0.1, "Smoothing of subword sampling; the lower, the more even.", minimum=0)

    @property
    def source_budget(self) -> int:
        """Source positions in a batch."""
        return self.source_batch_tokens or math.ceil(1.5 * self.batch_tokens)

    @property
    def length_limit(self) -> int:
        """Tokens in a training sentence: one that fills more than a batch cannot be used."""
        return min(self.max_length, self.batch_tokens, self.source_budget)
