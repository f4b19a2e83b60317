"""Exports a trained model for other programs: a TensorFlow SavedModel, or a folder for CTranslate2.

tfnmt-export --run_directory=runs/first --output=exported

makes a SavedModel from text to text. It needs TensorFlow and TensorFlow Text of the same version, and nothing of this
project:

    import tensorflow as tf, tensorflow_text
    translate = tf.saved_model.load("exported").translate
    translate(tf.constant(["A sentence .", "Another one ."]))["translations"]      # strings [sentences, --nbest]

The sentences of a call are one batch. TensorFlow Serving finds the same as the signature `serving_default`.

tfnmt-export --run_directory=runs/first --output=exported --format=ctranslate2 --quantization=int8

makes a folder for CTranslate2, for Transformers alone, with the vocabularies and a model card (README.md), which
tfnmt-translate --exported=exported reads. Text is translated both ways before: an export that translates otherwise
is not left, and the command ends with exit code 1. With --shortlist=50 it chooses only among likely target subwords,
which makes the output layer cheaper; the training text is aligned for that, which takes some minutes.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf
from absl import logging

from tfnmt import runtime
from tfnmt.commands import application
from tfnmt.data.corpus import find_corpus, languages_of
from tfnmt.data.files import TextPair, inspect_pairs, read_pairs
from tfnmt.data.settings import DataSettings
from tfnmt.decoding import model_card, shortlist
from tfnmt.decoding.ctranslate2_export import CheckedExport, CheckText, refuse_what_cannot_be_exported
from tfnmt.decoding.ctranslate2_format import FLOAT32, QUANTIZATIONS
from tfnmt.decoding.export import ExportedTranslator
from tfnmt.decoding.loading import Trained, TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings, SearchSettings
from tfnmt.errors import UserError, refuse
from tfnmt.run_directory import RunDirectory, new_directory
from tfnmt.settings import setting

_SAVED_MODEL, _CTRANSLATE2 = {"format": ("savedmodel",)}, {"format": ("ctranslate2",)}


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """What the exported model is, where it goes, and how it is checked."""

    output: str = setting("", "New directory for the exported model.", required=True, is_path=True)
    format: str = setting(
        "savedmodel", "Who reads it: TensorFlow or CTranslate2.", choices=("savedmodel", "ctranslate2")
    )
    quantization: str = setting(
        FLOAT32,
        "How the parameters are stored; int8 is a quarter as large and the fastest on a CPU.",
        choices=QUANTIZATIONS,
        only_with=_CTRANSLATE2,
    )
    shortlist: int = setting(
        0,
        "Translations of each source subword that the output layer computes, and of frequent subwords as many; by "
        "eflomal's alignments of the run's training text. 0 for all subwords.",
        minimum=0,
        only_with=_CTRANSLATE2,
    )
    source: str = setting(
        "",
        "File of source lines that are translated both ways, in place of the run's validation text.",
        is_path=True,
        only_with=_CTRANSLATE2,
    )
    reference: str = setting("", "Their good translations.", is_path=True, only_with=_CTRANSLATE2)
    checked_sentences: int = setting(
        1000, "So many of these lines from the start are translated.", minimum=1, only_with=_CTRANSLATE2
    )
    largest_bleu_loss: float = setting(
        0.5,
        "BLEU on these lines that an export may be worse by that is quantized or has a shortlist.",
        minimum=0,
        only_with={"quantization": [name for name in QUANTIZATIONS if name != FLOAT32], "shortlist": None},
    )

    def faults(self) -> list[str]:
        """One of two files."""
        if bool(self.source) == bool(self.reference):
            return []
        return ["--source and --reference: give both, the lines to translate and their good translations, or none."]


def _of_saved_models(name: str):
    """The field of `SearchSettings`, which an export for CTranslate2 does not hold."""
    (field,) = (field for field in dataclasses.fields(SearchSettings) if field.name == name)
    return setting(field.default, **{**field.metadata, "only_with": _SAVED_MODEL})


@dataclasses.dataclass(frozen=True)
class ExportSearchSettings(SearchSettings):
    """How the exported model translates."""

    beam_size: int = _of_saved_models("beam_size")
    length_penalty: float = _of_saved_models("length_penalty")
    nbest: int = _of_saved_models("nbest")
    allow_unknown: bool = _of_saved_models("allow_unknown")


def main() -> None:
    """The console script."""
    application.run(_main, TrainedSettings, ExportSettings, ExportSearchSettings)


def _main(trained_settings: TrainedSettings, settings: ExportSettings, search: ExportSearchSettings) -> None:
    runtime.prepare(trained_settings.threads or None, in_streams=True)
    trained = load(trained_settings)
    logging.info("Exporting %s.", " and ".join(trained.names))
    if settings.format == "savedmodel":
        _write(settings.output, lambda directory: _save_model(trained, search, directory))
        return
    refuse_what_cannot_be_exported(trained)
    run = RunDirectory(trained_settings.run_directory[0])
    text = _text(settings, run)
    make_shortlist = _shortlist_maker(settings, run, trained)

    def export(directory: Path) -> None:
        candidates = make_shortlist()
        checked = CheckedExport(trained, search, text, trained_settings.threads or None)
        check = checked.write(directory, settings.quantization, settings.largest_bleu_loss, candidates)
        model_card.write(directory, run, trained, check, settings.quantization, candidates)
        logging.info("In %s %s.", settings.quantization, check)

    _write(settings.output, export)


def _shortlist_maker(
    settings: ExportSettings, run: RunDirectory, trained: Trained
) -> Callable[[], shortlist.Shortlist | None]:
    """Makes the shortlist, which takes time; what it lacks is refused before."""
    if not settings.shortlist:
        return lambda: None
    shortlist.package()
    data = run.settings(DataSettings)
    files = shortlist.training_files(data)
    vocabularies = (trained.source_vocabulary, trained.target_vocabulary)
    return lambda: shortlist.make(files, data, vocabularies, settings.shortlist)


def _write(path: str, export: Callable[[Path], None]) -> None:
    """Makes the directory `path` of what `export` writes into another one; of a failure nothing is left."""
    output = new_directory(path)
    aside = output / ".writing"
    try:
        aside.mkdir()
        export(aside)
        for written in aside.iterdir():
            written.rename(output / written.name)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"--output={output}: cannot write the model: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            output.rmdir()  # It is empty behind a failure alone.
    size = sum(path.stat().st_size for path in output.rglob("*"))
    logging.info("%s: %.1f MB.", output, size / 1e6)


def _save_model(trained: Trained, search: SearchSettings, directory: Path) -> None:
    exported = ExportedTranslator(trained.translator(DecodingSettings(**dataclasses.asdict(search))), trained.vectors)
    with _quietly():
        tf.saved_model.save(exported, str(directory), signatures={"serving_default": exported.translate})


def _text(settings: ExportSettings, run: RunDirectory) -> CheckText:
    """The text that the export is checked with."""
    data = run.settings(DataSettings)
    files = [TextPair(settings.source, settings.reference)] if settings.source else _validation_files(data)
    _, faults = inspect_pairs(files)
    refuse(faults)
    sources, references = zip(*list(read_pairs(*files))[: settings.checked_sentences])
    names = tuple(path for pair in files for path in pair.paths)
    return CheckText(names, sources, references, languages_of(data)[1])


def _validation_files(data: DataSettings) -> list[TextPair]:
    remedy = "Give --source and --reference, which the export is checked with."
    try:
        files = find_corpus(data).validation
    except UserError as error:
        raise UserError(*error.faults, remedy) from error
    if not files:
        raise UserError(f"The run has no validation files. {remedy}")
    return list(files)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps what TensorFlow says about its own files out of the log."""
    verbosity, level = logging.get_verbosity(), tf.get_logger().level
    logging.set_verbosity(logging.WARNING)
    tf.get_logger().setLevel("WARNING")
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        tf.get_logger().setLevel(level)


if __name__ == "__main__":
    main()
