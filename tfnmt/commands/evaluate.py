"""Translates and scores text of which good translations are known: BLEU, chrF and TER.

tfnmt-evaluate --run_directory=runs/first                                          the run's own validation files
tfnmt-evaluate --run_directory=runs/first --split=test                             the test files of its --data
tfnmt-evaluate --run_directory=runs/first --source=test.en --reference=test.de
tfnmt-evaluate --hypotheses=output.de --reference=test.de --target_language=de     translations made before

With a run directory, the result is added to its evaluation.jsonl.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from tfnmt import runtime
from tfnmt.commands import application
from tfnmt.data.corpus import find_corpus, find_file, languages_of
from tfnmt.data.files import TextPair, inspect_pairs, overwriting_faults, read_pairs
from tfnmt.data.settings import DataSettings
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.streams import line_writer
from tfnmt.errors import UserError, refuse
from tfnmt.evaluation import Scores, evaluate
from tfnmt.progress import Progress
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import setting

RECORDS = "evaluation.jsonl"


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """What is evaluated."""

    source: str = setting(
        "", "File of source lines, plain or .gz, to translate and compare with --reference.", is_path=True
    )
    reference: str = setting("", "File of good translations, plain or .gz.", is_path=True)
    hypotheses: str = setting("", "File of translations made before, instead of --source.", is_path=True)
    split: str = setting(
        "validation",
        "Files of the run that are translated when none are given.",
        choices=("validation", "test"),
        only_with={"reference": ("",)},
    )
    target_language: str = setting("", "Such as de or zh; it decides how words are told apart. Empty for the run's.")
    bootstrap_samples: int = setting(
        0, "Resamplings of the sentences for 95% confidence intervals, such as 1000; 0 for none.", minimum=0
    )
    output: str = setting("", "File to write the translations to, plain or .gz.", is_path=True)

    def faults(self) -> list[str]:
        """Files that do not go together."""
        inputs = {"source": self.source, "reference": self.reference, "hypotheses": self.hypotheses}
        faults = overwriting_faults(self.output, **inputs)
        if self.source and self.hypotheses:
            faults.append("--source and --hypotheses: give one of them; the latter is translated already.")
        if (self.source or self.hypotheses) and not self.reference:
            faults.append("--reference is missing: name the file of good translations.")
        if self.reference and not (self.source or self.hypotheses):
            faults.append("--source is missing: name the file whose translations are in --reference.")
        return faults


@dataclasses.dataclass(frozen=True)
class EvaluateDecodingSettings(DecodingSettings):
    """How the text is translated."""

    nbest: int = setting(1, "The best translation is evaluated.", only_with={})


def main() -> None:
    """The console script."""
    application.run(_main, TrainedSettings, EvaluateSettings, EvaluateDecodingSettings)


def _main(trained: TrainedSettings, settings: EvaluateSettings, decoding: DecodingSettings) -> None:
    run = RunDirectory(trained.run_directory[0]) if trained.run_directory else None
    files = _files(settings, run)
    total, faults = inspect_pairs(files)
    refuse(faults)
    firsts, references = zip(*read_pairs(*files))
    names, hypotheses = [settings.hypotheses], list(firsts)
    if not settings.hypotheses:
        names, hypotheses = _translate(trained, decoding, firsts)
    if settings.output:
        with line_writer(settings.output) as write:
            write(hypotheses)
    language = settings.target_language or (languages_of(run.settings(DataSettings))[1] if run else None)
    scores = evaluate(hypotheses, references, target_language=language, bootstrap_samples=settings.bootstrap_samples)
    logging.info("%s: %s sentences of %s", ", ".join(names), f"{total:,}", ", ".join(map(str, files)))
    print(scores, flush=True)
    if run is not None:
        _record(run, files, names, total, scores, decoding)


def _files(settings: EvaluateSettings, run: RunDirectory | None) -> Sequence[TextPair]:
    """Pairs of the text that is translated, or was, and the references."""
    if run is None and not settings.hypotheses:
        raise UserError("--run_directory is missing: it names the run whose model translates. Or give --hypotheses.")
    if run is None or settings.reference:
        return [TextPair(settings.source or settings.hypotheses, settings.reference)]
    data = run.settings(DataSettings)
    files = find_corpus(data).validation if settings.split == "validation" else _test_files(data)
    if not files:
        raise UserError(f"The run has no {settings.split} files: give --source and --reference.")
    return files


def _test_files(data: DataSettings) -> Sequence[TextPair]:
    """The test files beside the training files; none where there is not one for each language."""
    if not data.data:
        return []
    corpus, directory = find_corpus(data), Path(data.data)
    languages = (str(corpus.source_language), str(corpus.target_language))
    source, target = (find_file(directory, ["test"], language) for language in languages)
    return [TextPair(source, target)] if source and target else []


def _translate(
    trained_settings: TrainedSettings, decoding: DecodingSettings, sources: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The names of the models and the best translation of each line."""
    runtime.prepare(trained_settings.threads or None, in_streams=True)
    trained = load(trained_settings)
    with Progress("Translating", len(sources), "sentences") as progress:
        translations = trained.translator(decoding).translate(
            trained.vectors, sources, report=lambda sentences, _: progress.advance(sentences)
        )
    return trained.names, [best.text for best, *_ in translations]


def _record(
    run: RunDirectory,
    files: Sequence[TextPair],
    names: Sequence[str],
    sentences: int,
    scores: Scores,
    decoding: DecodingSettings,
) -> None:
    """Adds the result to the run directory."""
    record = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "models": list(names),
        "files": [path for pair in files for path in pair.paths],
        "sentences": sentences,
        **scores.as_dict(),
        "decoding": dataclasses.asdict(decoding),
    }
    try:
        with open(run.path / RECORDS, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    except OSError as error:
        logging.warning("%s: the result was not recorded (%s).", run.path / RECORDS, error.strerror)


if __name__ == "__main__":
    main()
