"""A run directory with a tiny vocabulary, tiny random models and the files of a corpus."""

import io
from pathlib import Path

import sentencepiece
import tensorflow as tf

from tfnmt.checkpoints import Checkpoint, CheckpointStore
from tfnmt.data.settings import DataSettings
from tfnmt.decoding.loading import model_of
from tfnmt.layout import Layout
from tfnmt.models.registry import ModelChoice
from tfnmt.models.transformer import TransformerSettings
from tfnmt.run_directory import RunDirectory

SOURCES = ["a man rides a horse", "two dogs run in the snow", "", "the red car is fast", "  ", "a girl"]
TARGETS = ["ein Mann reitet", "zwei Hunde laufen", "leer", "das rote Auto ist schnell", "nichts", "ein Mädchen"]
MODEL = TransformerSettings(width=8, encoder_layers=1, decoder_layers=1, heads=2, feed_forward_width=16)


def write_vocabulary(path: Path, seed_text: str = "") -> Path:
    """Trains a vocabulary of a few dozen pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*SOURCES, *TARGETS, seed_text] * 3),
        model_writer=model,
        vocab_size=48,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3},
    )
    path.write_bytes(model.getvalue())
    return path


def make_run(
    path: Path, *, seeds: dict[int, int], metrics: dict[int, float], seed_text: str = "", model=MODEL
) -> RunDirectory:
    """A run whose checkpoint of each update has the parameters that its seed gives, and maybe a metric."""
    path.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        for language, lines in (("en", SOURCES), ("de", TARGETS)):
            (path / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))
    vocabulary = write_vocabulary(path / "vocabulary.model", seed_text)
    run = RunDirectory.create_or_check(
        path / "run", ModelChoice(), model, DataSettings(data=str(path), languages="en-de")
    )
    run.adopt_vocabularies(vocabulary, vocabulary)
    store = CheckpointStore(run.checkpoints, keep_last=10, keep_best=10)
    for update, seed in seeds.items():
        store.save(Checkpoint(update, arrays_of(run, seed), {}, {}), metrics.get(update))
    return run


def arrays_of(run: RunDirectory, seed: int) -> dict:
    """Random parameters, large enough that translations differ."""
    size = sentencepiece.SentencePieceProcessor(model_file=str(run.source_vocabulary)).vocab_size()
    layout = Layout(model_of(run, size, size).parameters)
    noise = tf.random.stateless_normal([layout.size], [seed, 0])
    return layout.unpack_array((layout.initialize(seed) + 0.3 * noise).numpy())
