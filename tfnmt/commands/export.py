"""Exports a trained model for other programs: a TensorFlow SavedModel from text to text.

tfnmt-export --run_directory=runs/first --output=exported

It needs TensorFlow and TensorFlow Text of the same version, and nothing of this project:

    import tensorflow as tf, tensorflow_text
    translate = tf.saved_model.load("exported").translate
    translate(tf.constant(["A sentence .", "Another one ."]))["translations"]      # strings [sentences, --nbest]

The sentences of a call are one batch. TensorFlow Serving finds the same as the signature `serving_default`.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator

import tensorflow as tf
from absl import logging

from tfnmt import runtime
from tfnmt.commands import application
from tfnmt.decoding.export import ExportedTranslator
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings, SearchSettings
from tfnmt.errors import UserError
from tfnmt.run_directory import new_directory
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """Where the exported model goes."""

    output: str = setting("", "New directory for the SavedModel.", required=True, is_path=True)


def main() -> None:
    """The console script."""
    application.run(_main, TrainedSettings, ExportSettings, SearchSettings)


def _main(trained_settings: TrainedSettings, settings: ExportSettings, search: SearchSettings) -> None:
    runtime.prepare(trained_settings.threads or None)
    trained = load(trained_settings)
    output = new_directory(settings.output)
    exported = ExportedTranslator(trained.translator(DecodingSettings(**dataclasses.asdict(search))), trained.vectors)
    logging.info("Exporting %s.", " and ".join(trained.names))
    aside = output / ".writing"
    try:
        with _quietly():
            tf.saved_model.save(exported, str(aside), signatures={"serving_default": exported.translate})
        for path in aside.iterdir():
            path.rename(output / path.name)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"--output={output}: cannot write the model: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    size = sum(path.stat().st_size for path in output.rglob("*"))
    logging.info("%s: %.0f MB; tf.saved_model.load reads it.", output, size / 1e6)


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
