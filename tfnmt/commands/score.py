"""Tells how likely a trained model finds given translations.

tfnmt-score --run_directory=runs/first --source=test.en --target=test.de

The output has one line for each pair, tab-separated: log-probability of the translation in nats, its tokens (the end
token included), and the mean log-probability of a token. Nothing is cut or left out.
"""

import dataclasses
import math

from absl import logging

from tfnmt import runtime
from tfnmt.commands import application
from tfnmt.data.files import TextPair, inspect_pairs, overwriting_faults, read_pairs
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.scoring import Scorer
from tfnmt.decoding.streams import STANDARD, chunks, line_writer
from tfnmt.errors import refuse
from tfnmt.progress import Progress
from tfnmt.settings import setting
from tfnmt.training.totals import perplexity


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
    """What is scored."""

    source: str = setting(
        "",
        "File of source lines, plain or .gz; tab-separated with both sides without --target.",
        required=True,
        is_path=True,
    )
    target: str = setting("", "File of their translations, plain or .gz.", is_path=True)
    output: str = setting(STANDARD, "File for the scores, plain or .gz; - for standard output.", is_path=True)
    chunk_sentences: int = setting(4096, "Pairs read, sorted by length and written together.", minimum=1)
    batch_sentences: int = setting(256, "Pairs scored at once, at most.", minimum=1)
    batch_positions: int = setting(
        4096,
        "Positions of the longer side, padding included, scored at once, at most.",
        minimum=1,
        formerly="batch_tokens",
    )

    def faults(self) -> list[str]:
        """An output that would overwrite what is scored."""
        return overwriting_faults(self.output, source=self.source, target=self.target)


def main() -> None:
    """The console script."""
    application.run(_main, TrainedSettings, ScoreSettings)


def _main(trained_settings: TrainedSettings, settings: ScoreSettings) -> None:
    pair = TextPair(settings.source, settings.target or None)
    total, faults = inspect_pairs([pair])
    refuse(faults)
    runtime.prepare(trained_settings.threads or None)
    trained = load(trained_settings)
    scorer = Scorer(
        trained.models,
        trained.layouts,
        trained.source_vocabulary,
        trained.target_vocabulary,
        batch_sentences=settings.batch_sentences,
        batch_positions=settings.batch_positions,
    )
    log_probability, tokens = 0.0, 0
    with line_writer(settings.output) as write, Progress("Scoring", total, "pairs") as progress:
        for pairs in chunks(read_pairs(pair), settings.chunk_sentences):
            sides = zip(*pairs)
            scores = scorer.score(trained.vectors, *sides, report=lambda pairs, _: progress.advance(pairs))
            write(f"{score.log_probability:.6f}\t{score.tokens}\t{score.per_token:.6f}" for score in scores)
            log_probability += math.fsum(score.log_probability for score in scores)
            tokens += sum(score.tokens for score in scores)
    mean = log_probability / tokens
    logging.info(
        "%s: %s pairs, %s target tokens, %.4f nats per token, perplexity %.6g.",
        *(", ".join(trained.names), f"{total:,}", f"{tokens:,}", -mean, perplexity(-mean)),
    )


if __name__ == "__main__":
    main()
