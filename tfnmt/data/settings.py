"""The flags that say which text is read and how it is made into batches."""

import dataclasses
import math
from typing import Any

from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """The files."""

    data: str = setting(
        "", "Directory with train.LANGUAGE and validation.LANGUAGE files, as tfnmt-corpus makes it.", is_path=True
    )
    languages: str = setting(
        "", "Source and target language, such as en-de; tfnmt-corpus leaves a note of it in --data."
    )
    train_source: tuple[str, ...] = setting(
        (),
        "Files of source lines to train on (plain or .gz), or tab-separated files when there is no --train_target.",
        is_path=True,
    )
    train_target: tuple[str, ...] = setting(
        (), "Files of target lines, one for each of --train_source, in its order.", is_path=True
    )
    validation_source: tuple[str, ...] = setting(
        (), "Files of source lines to validate on; tab-separated as above.", is_path=True
    )
    validation_target: tuple[str, ...] = setting(
        (), "Files of target lines, one for each of --validation_source.", is_path=True
    )

    def faults(self) -> list[str]:
        """Flags that do not fit each other."""
        faults = []
        for split in ("train", "validation"):
            faults += unpaired_faults(self, split)
            if self.data and getattr(self, f"{split}_source"):
                faults.append(f"--{split}_source: --data names the files already; give one of the two flags.")
        return faults


def unpaired_faults(settings: Any, split: str) -> list[str]:
    """The fault where `--SPLIT_source` and `--SPLIT_target` both name files, but not equally many."""
    sources, targets = getattr(settings, f"{split}_source"), getattr(settings, f"{split}_target")
    if not targets or len(targets) == len(sources):
        return []
    return [
        f"--{split}_source names {len(sources)} files and --{split}_target {len(targets)}: give one target file for "
        "each source file, in the same order."
    ]


@dataclasses.dataclass(frozen=True)
class DataSettings(TextSettings):
    """Files, filters and batches."""

    train_pipe: str = setting(
        "",
        "A named pipe, or - for standard input, of tab-separated pairs to train on in place of files. It is read once: "
        "its end is that of training, as with --max_epochs=1.",
        is_path=True,
    )
    producer_resumes: bool = setting(
        False,
        "When training goes on, what writes into --train_pipe goes on behind the pairs that it has given; otherwise it "
        "begins anew, and the pairs that were taken are skipped.",
        only_with={"train_pipe": None},
        may_change=True,
    )
    batch_positions: int = setting(
        4096,
        "Target positions in a worker's batch at most: sentences times the longest one's tokens, padding included.",
        minimum=8,
        formerly="batch_tokens",
    )
    source_batch_positions: int = setting(
        0,
        "Source positions in a worker's batch at most, padding included; 0 for one and a half times --batch_positions.",
        minimum=0,
        formerly="source_batch_tokens",
    )
    max_length: int = setting(
        256, "Training leaves out sentences of more tokens, the end included; never more than a batch has.", minimum=2
    )
    max_length_ratio: float = setting(
        6.0, "Training leaves out pairs with more than so many times as many tokens on one side.", minimum=1
    )
    shuffle_buffer: int = setting(200_000, "Sentence pairs held in memory and shuffled together.", minimum=1)
    pool_pairs: int = setting(
        30_000, "Sentence pairs sorted by length together; the more, the less padding.", minimum=1
    )
    subword_nbest: int = setting(
        0,
        "Subword sampling in training: 0 for none, above 1 among so many best segmentations, -1 among all. It is drawn "
        "from a generator that cannot be seeded, so such a run cannot be repeated bit by bit.",
        minimum=-1,
    )
    subword_alpha: float = setting(
        0.1,
        "Smoothing of subword sampling; the lower, the more even. With --subword_nbest=-1 low values cut words so "
        "finely that small corpora are learned badly.",
        minimum=0,
        only_with={"subword_nbest": None},
    )

    def faults(self) -> list[str]:
        """The faults of the files, and sampling among one segmentation."""
        faults = super().faults()
        faults += [
            f"--{name}: --train_pipe brings the pairs; give one of the two flags."
            for name in ("train_source", "train_target")
            if self.train_pipe and getattr(self, name)
        ]
        if self.subword_nbest == 1:
            faults.append(
                "--subword_nbest=1: there is nothing to sample among one segmentation; give 0 for no sampling, -1 or "
                "more than 1."
            )
        return faults

    @property
    def source_budget(self) -> int:
        """Source positions in a batch."""
        return self.source_batch_positions or math.ceil(1.5 * self.batch_positions)

    @property
    def length_limit(self) -> int:
        """Tokens in a training sentence: one that fills more than a batch cannot be used."""
        return min(self.max_length, self.batch_positions, self.source_budget)
