"""Translates text with a trained model.

tfnmt-translate --run_directory=runs/first < input.txt > output.txt

Every line is a sentence; an empty line stays empty. The output has one line for each line of input:

    the translation

With --scores, tab-separated, in nats and better when larger:

    score (log-probability over length penalty), log-probability, translation

With --nbest=N there are up to N lines for each line of input, best first, and each begins with the number of its
line of input, counted from 1, and a tab.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

from tfnmt import runtime
from tfnmt.commands import application
from tfnmt.data.files import overwriting_faults
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.streams import STANDARD, chunks, count_lines, line_writer, lines_of
from tfnmt.decoding.translator import Hypothesis
from tfnmt.progress import Progress, format_number
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class TranslateSettings:
    """What is translated, and how it is written."""

    input: str = setting(STANDARD, "Text file, plain or .gz; - for standard input.", is_path=True)
    output: str = setting(STANDARD, "File for the translations, plain or .gz; - for standard output.", is_path=True)
    scores: bool = setting(False, "Write score and log-probability before each translation.")
    chunk_sentences: int = setting(
        4096, "Sentences read, sorted by length and written together; 1 at a time from a terminal.", minimum=1
    )

    def faults(self) -> list[str]:
        """An output that would overwrite the input."""
        return overwriting_faults(self.output, input=self.input)


def main() -> None:
    """The console script."""
    application.run(_main, TrainedSettings, TranslateSettings, DecodingSettings)


def _main(trained_settings: TrainedSettings, settings: TranslateSettings, decoding: DecodingSettings) -> None:
    total = count_lines(settings.input)
    runtime.prepare(trained_settings.threads or None, in_streams=True)
    trained = load(trained_settings)
    translator = trained.translator(decoding)
    by_hand = settings.input == STANDARD and sys.stdin.isatty()
    size = 1 if by_hand else settings.chunk_sentences
    tally = _Tally(total, shown=not by_hand)
    with line_writer(settings.output) as output, tally.progress:
        first = 1
        for lines in chunks(lines_of(settings.input), size):
            found = translator.translate(trained.vectors, lines, report=tally.add)
            tally.add_empty(sum(not best.tokens for best, *_ in found))
            output.write(_format(found, first, settings.scores, decoding.nbest > 1))
            first += len(lines)


def _format(found: Sequence[Sequence[Hypothesis]], first: int, scores: bool, numbers: bool) -> Iterator[str]:
    """The output lines of consecutive input lines, the first of which has the number `first`."""
    for number, hypotheses in enumerate(found, start=first):
        for hypothesis in hypotheses:
            columns = [str(number)] if numbers else []
            columns += [f"{hypothesis.score:.6f}", f"{hypothesis.log_probability:.6f}"] if scores else []
            yield "\t".join([*columns, hypothesis.text])


class _Tally:
    """Sentences and tokens so far, shown as progress."""

    def __init__(self, total: int | None, shown: bool):
        self.progress = Progress("Translating", total, "sentences", lines=shown)
        self._tokens = 0
        self._started = time.monotonic()

    def add(self, sentences: int, tokens: int) -> None:
        self._tokens += tokens
        rate = self._tokens / (time.monotonic() - self._started)
        self.progress.advance(sentences, f"{format_number(rate)} tokens/s")

    def add_empty(self, sentences: int) -> None:
        self.progress.advance(sentences)


if __name__ == "__main__":
    main()
