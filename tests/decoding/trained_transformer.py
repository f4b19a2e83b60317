"""Runs with a Transformer that has learned a little of a toy language, so that its translations differ and end."""

from pathlib import Path

import numpy as np
import sentencepiece
import tensorflow as tf

from tests.decoding.tiny_run import write_vocabulary
from tfnmt.batch import END_ID, Batch
from tfnmt.checkpoints import Checkpoint, CheckpointStore
from tfnmt.data.settings import DataSettings
from tfnmt.decoding.batching import pad
from tfnmt.layout import Layout
from tfnmt.models.registry import ModelChoice
from tfnmt.models.transformer import Transformer, TransformerSettings
from tfnmt.run_directory import RunDirectory

WORDS = {"a": "ein", "man": "Mann", "two": "zwei", "dogs": "Hunde", "the": "das", "car": "Auto", "red": "rote"}
STEPS = 80
SHAPE = TransformerSettings(width=32, encoder_layers=1, decoder_layers=2, heads=2, feed_forward_width=64, dropout=0.0)


def lines(count: int, seed: int) -> list[tuple[str, str]]:
    """Sentences of two to eight words and their translations, word by word."""
    random = np.random.default_rng(seed)
    drawn = [random.choice(list(WORDS), random.integers(2, 9)) for _ in range(count)]
    return [(" ".join(words), " ".join(WORDS[word] for word in words)) for words in drawn]


def make_run(path: Path, settings: TransformerSettings, *, joint: bool = True) -> RunDirectory:
    """A run with its corpus, `train` and `validation`, and a checkpoint."""
    path.mkdir(parents=True)
    corpus = {"train": lines(120, seed=1), "validation": lines(40, seed=2)}
    for split, pairs in corpus.items():
        for side, language in enumerate(("en", "de")):
            (path / f"{split}.{language}").write_text("".join(f"{pair[side]}\n" for pair in pairs))
    names = ["vocabulary"] * 2 if joint else ["source", "target"]
    seeds = ["car red man", "car red man" if joint else "Mann rote Auto"]
    paths = [write_vocabulary(path / f"{name}.model", seed) for name, seed in zip(names, seeds)]
    run = RunDirectory.create_or_check(
        path / "run", ModelChoice(), settings, DataSettings(data=str(path), languages="en-de")
    )
    run.adopt_vocabularies(*paths)
    processors = [sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in paths]
    model = Transformer(settings, *(processor.vocab_size() for processor in processors))
    arrays = _train(model, processors, corpus["train"])
    CheckpointStore(run.checkpoints).save(Checkpoint(STEPS, arrays, {}, {}), 1.0)
    return run


def _train(model: Transformer, processors, pairs) -> dict[str, np.ndarray]:
    """The parameters behind a few steps of Adam on all pairs."""
    layout = Layout(model.parameters)
    sides = [
        pad([np.array([*processor.encode(pair[side]), END_ID], np.int32) for pair in pairs])
        for side, processor in enumerate(processors)
    ]
    batch = Batch(*map(tf.constant, sides), tf.zeros([3], tf.int64))
    vector = tf.Variable(layout.initialize(seed=5))
    slots = [tf.Variable(tf.zeros([layout.size])) for _ in range(2)]

    @tf.function(autograph=False)
    def step(number):
        with tf.GradientTape() as tape:
            sums = model.loss(layout.unpack(tf.identity(vector)), batch)
            loss = sums.loss / sums.target_tokens
        gradient = tf.convert_to_tensor(tape.gradient(loss, vector))
        slots[0].assign(0.9 * slots[0] + 0.1 * gradient)
        slots[1].assign(0.98 * slots[1] + 0.02 * gradient**2)
        mean, square = slots[0] / (1 - 0.9**number), slots[1] / (1 - 0.98**number)
        vector.assign_sub(0.01 * mean / (tf.sqrt(square) + 1e-8))
        return loss

    for number in range(1, STEPS + 1):
        loss = step(tf.constant(float(number)))
    assert loss < 2.5  # a language model alone would be worse
    return layout.unpack_array(vector.numpy())
