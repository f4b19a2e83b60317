"""Makes a corpus for a smaller model, a student: the sources of another one with a trained model's translations.

tfnmt-distill --teacher=runs/first --data=data/software.en-de --output=data/distilled.en-de

The new corpus has the teacher's vocabulary, and the validation and test text as it was. A command that was stopped or
killed goes on where it was when it is given again. The last line of the log is the command that trains a student.
"""

import dataclasses
import json
import multiprocessing
import os
import queue
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import logging

from tfnmt import durable_files, interruption, runtime
from tfnmt.commands import application
from tfnmt.data.corpus import DESCRIPTION, Corpus, find_corpus, find_file
from tfnmt.data.settings import TextSettings
from tfnmt.decoding.ctranslate2_translator import MODEL
from tfnmt.decoding.distillation import Distillation, best_score, nearest_to_reference, vocabulary_files
from tfnmt.decoding.engine import load_engine
from tfnmt.decoding.loading import BEST, TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.errors import UserError
from tfnmt.progress import Progress
from tfnmt.run_directory import lock
from tfnmt.settings import setting

CHUNK_PAIRS = 1024  # what is lost when the command is killed, by each process
STUDENT = "configs/student_6_2.flags"
_POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """Who teaches what."""

    teacher: tuple[str, ...] = setting(
        (),
        "Run directory of the teacher; several, with commas, are an ensemble. Or one folder of "
        "tfnmt-export --format=ctranslate2, which is faster.",
        required=True,
        is_path=True,
    )
    checkpoint: tuple[str, ...] = setting(
        (BEST,), "Checkpoint of each run directory, as tfnmt-translate has it.", required=True
    )
    data: str = setting("", "Directory of the corpus, as tfnmt-corpus makes it.", required=True, is_path=True)
    languages: str = setting(
        "", "Source and target language, such as en-de; tfnmt-corpus leaves a note of it in --data."
    )
    output: str = setting("", "Directory that the new corpus is written to.", required=True, is_path=True)
    choose_by: str = setting(
        "score",
        "Which hypothesis of the beam a student learns: the teacher's best (score), or the one with the highest "
        "sentence BLEU against the reference (reference).",
        choices=("score", "reference"),
    )
    processes: int = setting(1, "Processes that share the sentences; more than one pays on many cores.", minimum=1)
    threads: int = setting(0, "Cores to compute on, of all processes; 0 for all.", minimum=0)

    def faults(self) -> list[str]:
        """What a trained model's own settings would not accept."""
        faults = TrainedSettings(self.teacher, self.checkpoint).faults()
        if len(self.teacher) > 1 and any(map(_is_exported, self.teacher)):
            faults.append(f"--teacher={','.join(self.teacher)}: an exported folder teaches alone.")
        return faults


@dataclasses.dataclass(frozen=True)
class DistillDecodingSettings(DecodingSettings):
    """How the teacher translates."""

    nbest: int = setting(1, "With --choose_by=reference these are all hypotheses of the beam.", only_with={})


def main() -> None:
    """The console script."""
    application.run(_main, DistillSettings, DistillDecodingSettings)


def _main(settings: DistillSettings, decoding: DistillDecodingSettings) -> None:
    if settings.choose_by == "reference":
        decoding = dataclasses.replace(decoding, nbest=decoding.beam_size)
    names = _names(settings)
    corpus = find_corpus(TextSettings(data=settings.data, languages=settings.languages))
    pairs = corpus.inspect()["train"]
    distillation = Distillation(Path(settings.output), corpus.train[0], pairs, CHUNK_PAIRS)
    facts = {"teacher": names, "choose_by": settings.choose_by, "search": dataclasses.asdict(decoding)}
    hashes = [durable_files.fingerprint(Path(path)).sha256 for path in corpus.train[0].paths]
    distillation.begin({**facts, "text": hashes, "chunk_pairs": CHUNK_PAIRS})
    with lock(distillation.work, "output", "translating"):
        _translate_missing(settings, decoding, distillation)
        name = f"train.{corpus.target_language}"
        distillation.finish(name, _copies(settings, corpus), {**_origin(settings, corpus), **facts})
    student = ["tfnmt-train", f"--flagfile={STUDENT}", f"--data={settings.output}", "--run_directory=runs/student"]
    logging.info("%s has %s pairs. Train a student on it:\n%s", settings.output, f"{pairs:,}", shlex.join(student))


def _translate_missing(
    settings: DistillSettings, decoding: DistillDecodingSettings, distillation: Distillation
) -> None:
    """Translates the chunks that are not there, in one process or in several."""
    pairs, left = distillation.pairs, distillation.missing_pairs()
    if left < pairs:
        logging.info("Going on: %s of %s sentences are translated already.", f"{pairs - left:,}", f"{pairs:,}")
    with Progress("Translating", left, "sentences") as progress:
        if settings.processes == 1:
            _translate(settings, decoding, distillation, progress.advance)
        else:
            _share(settings, decoding, distillation, progress)


def _names(settings: DistillSettings) -> list[str]:
    """The teachers, so that others are told apart."""
    if _is_exported(settings.teacher[0]):
        fingerprint = durable_files.fingerprint(Path(settings.teacher[0], MODEL))
        return [f"{settings.teacher[0]}, SHA-256 {fingerprint.sha256}"]
    runtime.prepare(settings.threads or None, in_streams=True)
    try:
        return load(TrainedSettings(settings.teacher, settings.checkpoint)).names
    except UserError as error:
        raise UserError(*(fault.replace("--run_directory", "--teacher") for fault in error.faults)) from error


def _is_exported(teacher: str) -> bool:
    return Path(teacher, MODEL).is_file()


def _threads(settings: DistillSettings) -> int | None:
    """Cores of each process; None for all."""
    if settings.processes == 1:
        return settings.threads or None
    return max(1, (settings.threads or runtime.usable_cores()) // settings.processes)


def _translate(
    settings: DistillSettings,
    decoding: DistillDecodingSettings,
    distillation: Distillation,
    report: Callable[[int], None],
    shard: int = 0,
) -> None:
    """Translates the missing chunks of one process."""
    runtime.prepare(_threads(settings), in_streams=True)
    trained = TrainedSettings(settings.teacher, settings.checkpoint, _threads(settings) or 0)
    exported = settings.teacher[0] if _is_exported(settings.teacher[0]) else ""
    _, translate = load_engine(trained, exported, decoding)
    language = find_corpus(TextSettings(data=settings.data, languages=settings.languages)).target_language
    choose = nearest_to_reference(language) if settings.choose_by == "reference" else best_score
    distillation.translate(translate, choose, report, shard, settings.processes)


def _share(
    settings: DistillSettings, decoding: DistillDecodingSettings, distillation: Distillation, progress: Progress
) -> None:
    """Lets processes translate the missing chunks, and shows how far they are.

    Raises:
      UserError: one of them has ended with an error, which it has told; the others are ended.
    """
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork.
    done = context.Queue()
    work = (settings, decoding, distillation, done, os.getpid())
    processes = [context.Process(target=_work, args=(shard, *work), daemon=True) for shard in range(settings.processes)]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            _show(done, progress)
            failed = [process for process in processes if process.exitcode]
            if failed:
                raise UserError(
                    f"A process of the translation has ended with code {failed[0].exitcode}. Mend the cause, which it "
                    "has told above, and give the same command again: it goes on."
                )
        _show(done, progress)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _show(done: Any, progress: Progress) -> None:
    """Takes what the processes have told, and waits for more if there is nothing."""
    try:
        progress.advance(done.get(timeout=_POLL_SECONDS))
        while True:
            progress.advance(done.get_nowait())
    except queue.Empty:
        pass


def _work(
    shard: int,
    settings: DistillSettings,
    decoding: DistillDecodingSettings,
    distillation: Distillation,
    done: Any,
    parent: int,
) -> None:
    """One process."""
    interruption.loaded()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The command ends its processes itself.

    def report(sentences: int) -> None:
        if os.getppid() != parent:
            os._exit(application.FAILED)  # The command was killed, and nobody would end this process.
        done.put(sentences)

    try:
        _translate(settings, decoding, distillation, report, shard)
    except (UserError, OSError) as error:
        logging.error("%s", error)
        os._exit(UserError.exit_code)


def _copies(settings: DistillSettings, corpus: Corpus) -> list[Path]:
    """The files that the new corpus has as they are: sources, held-out text and the teacher's vocabulary."""
    languages = (str(corpus.source_language), str(corpus.target_language))
    validation = [path for pair in corpus.validation for path in pair.paths]
    test = [find_file(Path(settings.data), ("test",), language) for language in languages]
    files = [corpus.train[0].source, *validation, *filter(None, test)]
    return [*map(Path, files), *vocabulary_files(Path(settings.teacher[0]))]


def _origin(settings: DistillSettings, corpus: Corpus) -> dict[str, Any]:
    """What the new corpus is made of, with the sources and licences of the old one."""
    try:
        before = json.loads(Path(settings.data, DESCRIPTION).read_text("utf-8"))
    except (OSError, ValueError):
        before = {}
    languages = f"{corpus.source_language}-{corpus.target_language}"
    origin = {"data": os.path.abspath(settings.data), "corpus": before.get("corpus", "")}
    return {"corpus": "distilled", "languages": languages, "of": origin, "sources": before.get("sources", [])}


if __name__ == "__main__":
    main()
