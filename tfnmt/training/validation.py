"""Validation: the loss of held-out pairs and the quality of their translations, for one parameter vector."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfnmt import runtime
from tfnmt.batch import Batch
from tfnmt.data.files import TextPair, read_pairs
from tfnmt.data.pipeline import pair_batches
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.translator import Hypothesis, Translator
from tfnmt.engines.streams import in_streams
from tfnmt.errors import refuse
from tfnmt.evaluation import Scores, evaluate
from tfnmt.layout import Layout
from tfnmt.models.base import Model
from tfnmt.progress import Progress
from tfnmt.settings import setting
from tfnmt.training.metrics_command import faults_of_command, run_metrics_command


@dataclasses.dataclass(frozen=True)
class ValidationSettings:
    """When and how the parameters are evaluated during training."""

    evaluate_every_updates: int = setting(
        500,
        "Updates between evaluations, each of which saves a checkpoint; 0 for none.",
        minimum=0,
    )
    validation_beam_size: int = setting(1, "Beam size of the translations during training.", minimum=1)
    validation_sentences: int = setting(
        0,
        "Translate only so many pairs from the start of the validation files; 0 for all.",
        minimum=0,
    )
    metrics_command: str = setting(
        "",
        "Command that computes more metrics of the translations: it is run with three files behind its own arguments, "
        "translations, references and sources, and prints lines such as 'comet 0.8123'.",
        may_change=True,
    )
    samples: int = setting(
        3,
        "Translations of validation sentences shown at each evaluation.",
        minimum=0,
        may_change=True,
    )


@dataclasses.dataclass(frozen=True)
class ValidationDecodingSettings(DecodingSettings):
    """How validation sentences are translated."""

    beam_size: int = setting(5, "Training translates with --validation_beam_size.", only_with={}, may_change=True)
    nbest: int = setting(1, "Training takes the best translation.", only_with={}, may_change=True)


class Sample(NamedTuple):
    """One validation sentence with its translation."""

    source: str
    reference: str
    hypothesis: str
    source_pieces: tuple[str, ...]  # S of them
    target_pieces: tuple[str, ...]  # T of them
    attention: np.ndarray  # float32 [T, S]


class Evaluation(NamedTuple):
    """What was found of one parameter vector."""

    loss: float  # nats per target token, label smoothing included
    cross_entropy: float  # nats per target token
    scores: Scores  # of the translations
    samples: tuple[Sample, ...]
    measured: tuple[tuple[str, float], ...] = ()  # by --metrics_command: names and numbers

    def metrics(self) -> dict[str, float]:
        """Every number by the name that `--early_stopping_metric` has for it; the first of `measured` is "command"."""
        scores = {name: getattr(self.scores, name) for name in ("bleu", "chrf", "ter")}
        first = {"command": self.measured[0][1]} if self.measured else {}
        return {**dict(self.measured), "loss": self.loss, "cross_entropy": self.cross_entropy, **scores, **first}


class Validation:
    """Evaluates parameter vectors on the validation files."""

    def __init__(
        self,
        model: Model,
        layout: Layout,
        files: Sequence[TextPair],
        vocabularies: tuple[Vocabulary, Vocabulary],
        data: DataSettings,
        decoding: DecodingSettings,
        settings: ValidationSettings,
        target_language: str | None = None,
    ):
        """Reads the files and prepares the graphs.

        Args:
          model: the model.
          layout: of its parameters.
          files: the validation text.
          vocabularies: source and target.
          data: batch sizes.
          decoding: length penalty and limits; the beam size is `settings.validation_beam_size`.
          settings: how much is translated.
          target_language: decides sacreBLEU's tokenizer.

        Raises:
          UserError: there is no program that `settings.metrics_command` names.
        """
        refuse(faults_of_command(settings.metrics_command))
        self._loss, self._layout, self._settings = in_streams(model.loss, runtime.streams()), layout, settings
        self._vocabularies, self._target_language = vocabularies, target_language
        self._batches = pair_batches(files, *vocabularies, data)
        pairs = [pair for file in files for pair in read_pairs(file)][: settings.validation_sentences or None]
        self._sources, self._references = ([pair[side] for pair in pairs] for side in range(2))
        search = dataclasses.replace(decoding, beam_size=settings.validation_beam_size, nbest=1)
        self._translator = Translator([model], [layout], *vocabularies, search)

    def evaluate(self, vector: tf.Tensor) -> Evaluation:
        """The loss and the scores of the parameters `vector` [size]."""
        loss, cross_entropy = self.losses(vector)
        with Progress("Validating", len(self._sources), "sentences") as progress:
            found = self._translator.translate(
                [vector],
                self._sources,
                report=lambda sentences, tokens: progress.advance(sentences),
            )
        hypotheses = [best.text for best, *_ in found]
        return Evaluation(
            loss=loss,
            cross_entropy=cross_entropy,
            scores=evaluate(hypotheses, self._references, target_language=self._target_language),
            samples=self._samples(vector),
            measured=self._measured(hypotheses),
        )

    def trace(self) -> None:
        """Makes all graphs, so that `evaluate` makes none: while a task of a cluster is silent, none can be made."""
        self._sums.get_concrete_function(tf.TensorSpec([self._layout.size], tf.float32))
        for count in (len(self._sources), min(self._settings.samples, len(self._sources))):
            self._vocabularies[0].tokenize(tf.constant(self._sources[:count]))
        for with_attention in (False, True) if self._settings.samples else (False,):
            self._translator.graph(with_attention).get_concrete_function()

    def _measured(self, hypotheses: Sequence[str]) -> tuple[tuple[str, float], ...]:
        command = self._settings.metrics_command
        return run_metrics_command(command, hypotheses, self._references, self._sources) if command else ()

    def losses(self, vector: tf.Tensor) -> tuple[float, float]:
        """Loss and cross entropy of the parameters `vector` [size] in nats per target token; nothing is translated."""
        loss, cross_entropy, target_tokens = (float(number) for number in self._sums(vector))
        return loss / target_tokens, cross_entropy / target_tokens

    @tf.function(reduce_retracing=True, autograph=False)
    def _sums(self, vector: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Loss, cross entropy and target tokens, summed over the files; float64 scalars."""
        views = self._layout.unpack(vector)

        def add(totals: tuple[tf.Tensor, ...], batch: Batch) -> tuple[tf.Tensor, ...]:
            return tuple(
                total + tf.cast(more, tf.float64) for total, more in zip(totals, self._loss(views, batch, None))
            )

        return self._batches.reduce((tf.zeros([], tf.float64),) * 3, add)

    def _samples(self, vector: tf.Tensor) -> tuple[Sample, ...]:
        """The same few sentences each time, spread over the files."""
        count = min(self._settings.samples, len(self._sources))
        places = [place * len(self._sources) // count for place in range(count)]
        found = self._translator.translate([vector], [self._sources[place] for place in places], with_attention=True)
        return tuple(self._sample(place, best) for place, (best, *_) in zip(places, found))

    def _sample(self, place: int, best: Hypothesis) -> Sample:
        source_vocabulary, target_vocabulary = self._vocabularies
        end = ("</s>",)
        pieces = target_vocabulary.pieces()
        return Sample(
            source=self._sources[place],
            reference=self._references[place],
            hypothesis=best.text,
            source_pieces=tuple(source_vocabulary.segment(self._sources[place])) + end,
            target_pieces=tuple(pieces[token] for token in best.tokens),
            attention=np.zeros((0, 0), np.float32) if best.attention is None else best.attention,
        )
