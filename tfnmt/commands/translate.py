"""Translates text with a trained model.

tfnmt-translate --run_directory=runs/first < input.txt > output.txt

Every line is a sentence; an empty line stays empty. The output has one line for each line of input:

    the translation

With --scores, tab-separated, in nats and better when larger:

    score (log-probability over length penalty), log-probability, translation

With --nbest=N there are up to N lines for each line of input, best first, and each begins with the number of its
line of input, counted from 1, and a tab.

tfnmt-translate --exported=FOLDER translates with what tfnmt-export --format=ctranslate2 has made, and needs no run.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

from tfnmt import runtime
from tfnmt.commands import application
from tfnmt.data.files import overwriting_faults
from tfnmt.decoding.engine import load_engine
from tfnmt.decoding.loading import TrainedSettings
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.streams import STANDARD, chunks, count_lines, line_writer, lines_of
from tfnmt.decoding.translator import Hypothesis
from tfnmt.errors import UserError
from tfnmt.progress import Progress, format_number
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class TranslateSettings:
    """What is translated, and how it is written."""

    input: str = setting(STANDARD, "Text file, plain or .gz; - for standard input.", is_path=True)
    exported: str = setting(
        "", "Folder of tfnmt-export --format=ctranslate2 to translate with, in place of a run.", is_path=True
    )
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
    if settings.exported and trained_settings.run_directory:
        raise UserError("--exported and --run_directory: each is a model to translate with; give one of them.")
    if settings.exported and application.given("checkpoint"):
        raise UserError("--checkpoint does nothing with --exported, which holds one model; leave it out.")
    runtime.prepare(trained_settings.threads or None, in_streams=True)
    _, translate = load_engine(trained_settings, settings.exported, decoding)
    by_hand = settings.input == STANDARD and sys.stdin.isatty()
    size = 1 if by_hand else settings.chunk_sentences
    progress = Progress("Translating", total, "sentences", lines=not by_hand)
    started, tokens = time.monotonic(), 0

    def report(sentences: int, more_tokens: int) -> None:
        nonlocal tokens
        tokens += more_tokens
        progress.advance(sentences, f"{format_number(tokens / (time.monotonic() - started))} tokens/s")

    with line_writer(settings.output) as write, progress:
        first = 1
        for lines in chunks(lines_of(settings.input), size):
            translations = translate(lines, report)
            progress.advance(
                sum(not best.tokens for best, *_ in translations)
            )  # empty lines, of which no batch reports
            write(_format(translations, first, settings.scores, decoding.nbest > 1))
            first += len(lines)


def _format(translations: Sequence[Sequence[Hypothesis]], first: int, scores: bool, numbers: bool) -> Iterator[str]:
    """The output lines of consecutive input lines, the first of which has the number `first`."""
    for number, hypotheses in enumerate(translations, start=first):
        for hypothesis in hypotheses:
            columns = [str(number)] if numbers else []
            columns += [f"{hypothesis.score:.6f}", f"{hypothesis.log_probability:.6f}"] if scores else []
            yield "\t".join([*columns, hypothesis.text])


if __name__ == "__main__":
    main()
