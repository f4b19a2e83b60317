"""Trainings of a study on the simulated engine, many in one process; each can be taken up where it was left."""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfnmt import durable_files
from tfnmt.batch import token_count
from tfnmt.data.corpus import find_corpus
from tfnmt.data.pipeline import training_batches
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import load_vocabularies
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.engines.base import EngineState
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import BlockReport
from tfnmt.engines.simulated import SimulatedEngine
from tfnmt.engines.virtual_time import RING, STAR, CostSettings
from tfnmt.layout import Layout
from tfnmt.models.base import ModelSettings
from tfnmt.models.registry import ModelChoice, build_model
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import STRATEGIES, Strategy, StrategySettings, phases
from tfnmt.training.validation import Validation, ValidationSettings

VALIDATION_POSITIONS = 2048
"""Of a batch of validation pairs: nothing but speed depends on it."""

TRANSLATED = 100
"""Validation pairs that are translated once, at the end of a trial."""

SAVE_EVERY_SECONDS = 60.0

_TOKENS = "tokens."
"""How the names of the files begin that are of no trial."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: everything by which it differs from the others of a study.

    Attributes:
      strategy: name of the row.
      workers: how many.
      learning_rate: highest one, before the law.
      law: how it grows with the batches of an update.
      flags: the row's own settings, as (name, value).
      seed: of initial parameters and data.
    """

    strategy: str
    workers: int
    learning_rate: float
    law: str
    flags: tuple[tuple[str, Any], ...] = ()
    seed: int = 1

    @property
    def name(self) -> str:
        """The name of its files."""
        flags = "".join(f".{name}={value}" for name, value in self.flags)
        return f"{self.strategy}.{self.workers}{flags}.{self.law}.{self.learning_rate:.5g}.seed{self.seed}"

    def row(self) -> Strategy:
        """The columns of its row."""
        return STRATEGIES[self.strategy](**dict(self.flags)).row(self.workers, OptimizerSettings())


class Evaluation(NamedTuple):
    """A point of a curve."""

    tokens: int  # target tokens of all workers
    updates: int
    seconds: float  # virtual, of the network with which the trial was trained
    cross_entropy: float  # nats per target token of the validation pairs


class Laboratory:
    """Trains trials and keeps what they come to: a curve as JSON for each, and its newest state."""

    def __init__(
        self,
        directory: pathlib.Path,
        data: DataSettings,
        choice: ModelChoice,
        model: ModelSettings,
        *,
        warmup_tokens: int,
        most_tokens: int,
        transfer_share: float,
    ):
        """Nothing is read before it is needed.

        Args:
          directory: of the files.
          data: the text and its batches.
          choice: which model.
          model: its settings.
          warmup_tokens: target tokens of all workers in which the learning rate rises.
          most_tokens: target tokens of all workers that a trial may read.
          transfer_share: see `costs`, for the rows without a barrier.
        """
        self._directory, self._data, self._model_settings = directory, data, (choice, model)
        self._warmup_tokens, self._most_tokens, self._transfer_share = warmup_tokens, most_tokens, transfer_share
        self._live: dict[str, tuple[SimulatedEngine, Iterator[BlockReport]]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def curve(self, trial: Trial) -> list[Evaluation]:
        """The evaluations so far."""
        return [Evaluation(**point) for point in self.record(trial).get("curve", [])]

    def record(self, trial: Trial) -> dict[str, Any]:
        """All that is kept as JSON of a trial; empty for one that has not begun."""
        path = self._path(trial, "json")
        return json.loads(path.read_text()) if path.exists() else {}

    def records(self) -> dict[str, dict[str, Any]]:
        """All that is kept as JSON of all trials, by their names."""
        paths = sorted(path for path in self._directory.glob("*.json") if not path.name.startswith(_TOKENS))
        return {path.stem: json.loads(path.read_text()) for path in paths}

    def take_over(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Keeps what was known of trials elsewhere: what has come as far as is wanted is not trained again."""
        for name, record in records.items():
            if not (path := self._directory / f"{name}.json").exists():
                durable_files.replace(path, _encoded(record))

    def train(
        self, trial: Trial, until_tokens: float, every_tokens: float, target: float | None = None, margin: float = 0.0
    ) -> list[Evaluation]:
        """Trains on to a number of target tokens or to a target.

        Args:
          trial: what is trained.
          until_tokens: where it ends and is evaluated.
          every_tokens: between two evaluations near the target; anywhere, without one.
          target: cross entropy at which training ends.
          margin: evaluations come five times as seldom while the cross entropy is further from the target.

        Returns:
          The curve.
        """
        record = self.record(trial)
        curve = self.curve(trial)
        if curve and (curve[-1].tokens >= until_tokens or (target is not None and curve[-1].cross_entropy <= target)):
            return curve
        began, saved_at = time.process_time(), time.monotonic()
        engine, reports, curve = self._engine(trial, curve)
        tokens, updates, seconds = curve[-1][:3]
        while True:
            is_near = target is None or curve[-1].cross_entropy <= target + margin
            between = every_tokens if is_near else 5 * every_tokens
            due = min((tokens // between + 1) * between, until_tokens)  # the same, however often training was left
            while tokens < due:
                report = next(reports)
                tokens, updates, seconds = tokens + report.target_tokens, report.update, seconds + report.seconds
            curve.append(Evaluation(tokens, updates, seconds, self._cross_entropy(engine)))
            is_over = tokens >= until_tokens or (target is not None and curve[-1].cross_entropy <= target)
            if is_over or time.monotonic() - saved_at >= SAVE_EVERY_SECONDS:
                spent = record.get("processor_seconds", 0.0) + time.process_time() - began
                self._save(engine, trial, curve, {**record, "processor_seconds": round(spent, 1)})
                saved_at = time.monotonic()
            if is_over:
                break
        return curve

    def score(self, trial: Trial) -> dict[str, Any]:
        """BLEU of the newest parameters, and on how many tokens they were trained."""
        record = self.record(trial)
        if "bleu" not in record:
            parameters = self._load_state(trial).evaluated
            scores = self._validation.evaluate(tf.constant(parameters)).scores
            record["bleu"] = {"bleu": scores.bleu, "tokens": record["curve"][-1]["tokens"]}
            self._write(trial, record)
        return record["bleu"]

    def forget(self, trial: Trial) -> None:
        """Lets go of a trial's engine and state, so that it cannot be trained on."""
        self._live.pop(trial.name, None)
        self._path(trial, "npz").unlink(missing_ok=True)

    def step_tokens(self, workers: int, seed: int = 1) -> list[list[int]]:
        """[workers][steps], the target tokens that each worker reads, whatever the row: they come with the data."""
        path = self._directory / f"{_TOKENS}{workers}.seed{seed}.json"
        if not path.exists():
            tokens = [[number for number, _ in read] for _, read in self._readers(workers, seed)]
            durable_files.replace(path, json.dumps(tokens).encode())
        return json.loads(path.read_text())

    def batch_tokens(self, workers: int) -> float:
        """Target tokens of a worker's batch, the mean."""
        tokens = self.step_tokens(workers)
        return sum(map(sum, tokens)) / sum(map(len, tokens))

    def costs(self, transfer_share: float, network: str) -> CostSettings:
        """A network over which all parameters travel one way in so many times the seconds of a mean step."""
        step_seconds = self.batch_tokens(1) * CostSettings().seconds_per_token
        return CostSettings(
            network=network,
            network_latency_seconds=0.0,
            network_bytes_per_second=self.vector_bytes / (transfer_share * step_seconds),
        )

    @property
    def vector_bytes(self) -> int:
        """Of a vector of all parameters."""
        return Layout(self._model.parameters).size * 4

    def _engine(
        self, trial: Trial, curve: list[Evaluation]
    ) -> tuple[SimulatedEngine, Iterator[BlockReport], list[Evaluation]]:
        if trial.name in self._live:
            return *self._live[trial.name], curve
        engine = SimulatedEngine(self._recipe(trial), workers=trial.workers, costs=self._costs_of(trial))
        saved = self._load_state(trial)
        if saved:
            engine.restore(saved)
            curve = [point for point in curve if point.updates <= saved.counters["version"]]
        else:
            curve = [Evaluation(0, 0, 0.0, self._cross_entropy(engine))]
        self._live[trial.name] = engine, engine.blocks()
        return *self._live[trial.name], curve

    def _recipe(self, trial: Trial) -> Recipe:
        row = trial.row()
        settings = StrategySettings(strategy=trial.strategy, learning_rate_law=trial.law, seed=trial.seed)
        scheduled_tokens = self.batch_tokens(trial.workers) * row.law_factor  # while the schedule counts one update
        warmup = max(round(self._warmup_tokens / scheduled_tokens), 1)
        schedule = ScheduleSettings(learning_rate=trial.learning_rate, warmup_updates=warmup)
        trained = phases(settings, STRATEGIES[trial.strategy](**dict(trial.flags)), trial.workers, OptimizerSettings())
        readers = self._readers(trial.workers, trial.seed)

        def make_batches(position, worker, workers):
            batches, read = readers[worker]
            if position is None or tuple(position) == (0, 0, -1):
                return batches
            return batches.skip(1 + [place for _, place in read].index(tuple(map(int, position))))

        shards = 1 if row.has_barrier else trial.workers
        return Recipe(self._model, Layout(self._model.parameters, shards), trained, schedule, settings, make_batches)

    def _costs_of(self, trial: Trial) -> CostSettings:
        """The updates of a row with a barrier do not depend on its network, and a ring is simulated fastest."""
        if trial.row().has_barrier:
            return CostSettings(network=RING if trial.workers > 1 else STAR)
        return self.costs(self._transfer_share, STAR)

    @functools.cache  # noqa: B019  one laboratory lives as long as its process
    def _readers(self, workers: int, seed: int) -> list[tuple[tf.data.Dataset, list[tuple[int, tuple[int, ...]]]]]:
        """For each worker its batches, kept in memory, and of each batch the target tokens and the position."""
        corpus = find_corpus(self._data)
        most = round(self._most_tokens / workers / (0.7 * self._data.batch_positions))  # padding fills up to a quarter
        readers = []
        for worker in range(workers):
            batches = training_batches(
                corpus.train, *self._vocabularies, self._data, seed=seed, shard=worker, shards=workers
            )
            batches = batches.take(most).cache()
            read = [(int(token_count(b.target_ids)), tuple(b.position.numpy().tolist())) for b in batches]
            readers.append((batches, read))
        return readers

    @functools.cached_property
    def _vocabularies(self):
        return load_vocabularies(self._data.data)

    @functools.cached_property
    def _model(self):
        choice, model = self._model_settings
        return build_model(choice.model, model, *(vocabulary.size for vocabulary in self._vocabularies))

    @functools.cached_property
    def _validation(self) -> Validation:
        corpus = find_corpus(self._data)
        data = dataclasses.replace(self._data, batch_positions=VALIDATION_POSITIONS)
        how = (
            data,
            DecodingSettings(),
            ValidationSettings(samples=0, validation_sentences=TRANSLATED),
            corpus.target_language,
        )
        return Validation(self._model, Layout(self._model.parameters), corpus.validation, self._vocabularies, *how)

    def _cross_entropy(self, engine: SimulatedEngine) -> float:
        evaluated = engine.state().evaluated[: Layout(self._model.parameters).size]
        return self._validation.losses(tf.constant(evaluated))[1]

    def _save(self, engine: SimulatedEngine, trial: Trial, curve: Sequence[Evaluation], record: dict) -> None:
        """The state first, so that a curve never knows more than the state from which training goes on."""
        state, path = engine.state(), self._path(trial, "npz")
        aside = path.with_suffix(".writing.npz")
        np.savez(aside, counters=json.dumps(state.counters), **state.vectors)
        aside.replace(path)
        facts = {"trial": dataclasses.asdict(trial), "curve": [point._asdict() for point in curve]}
        self._write(trial, {**record, **facts})

    def _write(self, trial: Trial, record: Mapping[str, Any]) -> None:
        durable_files.replace(self._path(trial, "json"), _encoded(record))

    def _load_state(self, trial: Trial) -> EngineState | None:
        path = self._path(trial, "npz")
        if not path.exists():
            return None
        with np.load(path) as saved:
            vectors = {name: saved[name] for name in saved.files if name != "counters"}
            return EngineState(vectors, json.loads(str(saved["counters"])))

    def _path(self, trial: Trial, suffix: str) -> pathlib.Path:
        return self._directory / f"{trial.name}.{suffix}"


def _encoded(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()
