"""Trains a translation model.

tfnmt-train --flagfile=configs/transformer_small.flags --data=data/software.en-de --run_directory=runs/first
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from absl.logging import ERROR, INFO

from graphs.encodings import DENSE
from tfnmt.checkpoints import CheckpointStore
from tfnmt.commands import application, logs
from tfnmt.commands.presets import completed
from tfnmt.commands.train_settings import (
    REQUESTS,
    Settings,
    idle_cooldown_faults,
    of_one_epoch,
    pipe_faults,
    unseen_faults,
)
from tfnmt.data.corpus import Corpus, find_corpus
from tfnmt.data.files import TextPair
from tfnmt.data.pipeline import training_batches
from tfnmt.data.spool import Positions, Spool, SpooledPairs
from tfnmt.data.survey import Survey, survey
from tfnmt.data.vocabulary import Vocabulary, load_vocabularies
from tfnmt.engines import registry
from tfnmt.engines.base import Engine, EngineState
from tfnmt.engines.learning_rates import LearningRates
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import PushReport
from tfnmt.engines.session import Drive, Lead, Session
from tfnmt.errors import refuse
from tfnmt.layout import Layout, Parameter
from tfnmt.models.base import Model, ModelSettings
from tfnmt.models.registry import build_model
from tfnmt.planning.advice import Machines
from tfnmt.run_directory import RunDirectory
from tfnmt.strategies import Phase, RowSettings, most_fragments, phases
from tfnmt.training.initial_model import begin_with
from tfnmt.training.monitoring import Monitor
from tfnmt.training.stopping import describe_limits
from tfnmt.training.trainer import Trainer
from tfnmt.training.validation import Validation


class _Parts(NamedTuple):
    """What a run is made of, beside its settings."""

    corpus: Corpus
    vocabularies: tuple[Vocabulary, Vocabulary]
    model: Model
    layout: Layout


def main() -> None:
    """The console script."""
    application.run(_main, *REQUESTS)


def _main(*all_settings) -> int:
    settings = of_one_epoch(completed(Settings(*all_settings), application.given))
    threads, strategy = settings.run.threads or None, settings.strategy.strategy
    session = registry.open_session(settings.run.engine, settings.engine, strategy, threads, os.environ)
    if session.has_peers:
        application.end_at_once()
    return session.run(_Job(settings, session))


class _Job:
    """The run that the settings ask for; see `tfnmt.engines.session.Job`."""

    def __init__(self, settings: Settings, session: Session):
        self._settings, self._session = settings, session
        self._spool: Spool | None = None  # where this process leads, and pairs come through a pipe
        self.dry_run = settings.run.dry_run

    @functools.cached_property
    def _parts(self) -> _Parts:
        settings = self._settings
        corpus = find_corpus(settings.data)
        vocabularies = load_vocabularies(settings.run.vocabulary or settings.data.data)
        sizes = [vocabulary.size for vocabulary in vocabularies]
        model = build_model(settings.choice.model, settings.model, *sizes)
        faults = _sharing_faults(settings.model, *vocabularies) + _shared_table_faults(settings, model)
        refuse(faults + unseen_faults(settings, bool(corpus.validation)))
        corpus.inspect()
        shards = self._session.servers * most_fragments(self._phases())
        return _Parts(corpus, vocabularies, model, Layout(self._beginning(model, vocabularies), shards))

    def _beginning(self, model: Model, vocabularies: tuple[Vocabulary, Vocabulary]) -> tuple[Parameter, ...]:
        """The model's parameters, with their first values; where something is saved, training goes on from that."""
        path = self._settings.run.initial_model
        return begin_with(path, vocabularies, model) if path and not self.newest_saved() else model.parameters

    def _phases(self) -> Sequence[Phase]:
        settings = self._settings
        return phases(settings.strategy, settings.row, self._session.workers, settings.optimizer)

    def refuse_unsuitable(self) -> None:
        settings, row = self._settings, self._phases()[-1].strategy
        faults = [*self._session.faults(settings.strategy, row), *idle_cooldown_faults(settings, row)]
        refuse([*faults, *pipe_faults(settings)])

    def recipe(self) -> Recipe:
        self.refuse_unsuitable()
        settings, session, (*_, model, layout) = self._settings, self._session, self._parts
        trained = self._phases()
        shared, batches = settings.strategy, self._batches
        return Recipe(
            model,
            layout,
            trained,
            settings.schedule,
            shared,
            batches,
            streams=session.streams,
            is_starved=lambda: self._spool is not None and self._spool.is_awaited,
        )

    @functools.cached_property
    def _spooled(self) -> SpooledPairs:
        return SpooledPairs.of(self._settings.run.run_directory, self._settings.data)

    def _batches(self, position, worker, workers) -> tf.data.Dataset:
        return training_batches(
            self._spooled if self._settings.data.train_pipe else self._parts.corpus.train,
            *self._parts.vocabularies,
            self._settings.data,
            seed=self._settings.strategy.seed,
            position=position,
            shard=worker,
            shards=workers,
        )

    @contextlib.contextmanager
    def leading(self) -> Iterator[Lead]:
        """Reads the corpus once and, for more than a dry run, makes the run directory or finds it, and locks it.

        Of pairs that come through a pipe it reads the first ones, which it puts into the run directory.
        """
        settings, has_pipe = self._settings, bool(self._settings.data.train_pipe)
        facts = {} if has_pipe else self._facts(self._parts.corpus.train)
        if self.dry_run:
            yield functools.partial(self._rehearse, facts)
            return
        with contextlib.ExitStack() as stack:
            run = stack.enter_context(
                RunDirectory.locked(settings.run.run_directory, *settings, free=registry.SETTINGS.values())
            )
            if has_pipe:
                spool = Spool(settings.data, self._spooled, self._session.workers, self._positions(run))
                self._spool = stack.enter_context(contextlib.closing(spool))
                self._spool.start()
                facts = self._facts([self._spool.beginning])
            yield functools.partial(self._train, run, facts)

    def _facts(self, files: Sequence[TextPair]) -> dict[str, str]:
        settings, session, (_, vocabularies, model, layout) = self._settings, self._session, self._parts
        has_pipe = bool(settings.data.train_pipe)
        # Anew for other ranks: each reads a share of the text, and none may be empty.
        found = survey(files, *vocabularies, settings.data, shards=session.workers, more_to_come=has_pipe)
        return _facts(settings, session, model, layout, found)

    def _store(self, run: RunDirectory) -> CheckpointStore:
        checkpoints = self._settings.checkpoints
        return CheckpointStore(run.checkpoints, checkpoints.keep_last, checkpoints.keep_best)

    def _positions(self, run: RunDirectory) -> Callable[[], Sequence[Positions]]:
        """Tells how far the readers had come in each checkpoint."""
        store = self._store(run)
        return lambda: [
            [worker["position"] for worker in progress["engine"]["workers"]]
            for progress in store.progress()
            if "engine" in progress
        ]

    def _rehearse(self, facts: dict[str, str], drive: Drive, _: EngineState | None) -> int:
        """Builds everything, and tells how it would train."""

        def rehearse(engine: Engine) -> int:
            engine.rehearse()
            print(application.configuration_table(*self._settings), *_lines(facts, self._parts.layout), sep="\n")
            return 0

        with tempfile.TemporaryDirectory() as leaves_nothing:
            self._quieten_tensorflow(Path(leaves_nothing))
            return drive(rehearse)

    def _train(self, run: RunDirectory, facts: dict[str, str], drive: Drive, live: EngineState | None) -> int:
        """Trains to the end; the exit code."""
        settings = self._settings
        run.adopt_vocabularies(*(vocabulary.path for vocabulary in self._parts.vocabularies))
        application.log_to(run.logs)
        for line in [*_lines(facts), describe_limits(settings.stopping)]:
            logging.info("%s", line)
        self._quieten_tensorflow(run.logs)

        def train(engine: Engine) -> int:
            monitor = Monitor(run, settings.monitoring, settings.stopping, self._speed_up)
            trainer = self._trainer(run, engine, monitor)
            if trainer.resume(self._session.workers, live):
                logging.info("Going on from update %s of %s.", f"{trainer.update:,}", run.path)
            monitor.describe(settings, facts)
            return trainer.train()

        return drive(train)

    def _speed_up(self, row: RowSettings, pushes: Sequence[PushReport]) -> float | None:
        """How much faster another row would be, by early pushes; None where it cannot run here."""
        settings, session, layout = self._settings, self._session, self._parts.layout
        other = phases(settings.strategy, row, session.workers, settings.optimizer)[-1].strategy
        if session.faults(settings.strategy, other) or not any(push.target_tokens for push in pushes):
            return None
        machines = Machines(session.workers, session.servers, layout.size * tf.float32.size, session.has_no_servers)
        return machines.speed_up(other, self._phases()[0].strategy, pushes)

    def _quieten_tensorflow(self, directory: Path) -> None:
        if self._session.has_peers:
            logs.divert_tensorflow(directory)

    def _trainer(self, run: RunDirectory, engine: Engine, monitor: Monitor) -> Trainer:
        settings, (corpus, vocabularies, model, layout), validation = self._settings, self._parts, None
        if corpus.validation:
            how = (settings.data, settings.decoding, settings.validation, corpus.target_language)
            validation = Validation(model, layout, corpus.validation, vocabularies, *how)
            if self._phases()[-1].strategy.least_payloads is not None:  # training goes on where a worker is silent
                validation.trace()
        return Trainer(
            engine,
            layout,
            self._store(run),
            monitor,
            validation,
            stopping=settings.stopping,
            schedule=settings.schedule,
            saving=settings.saving,
            evaluate_every_updates=settings.validation.evaluate_every_updates,
        )

    def speak(self, rank: int) -> None:
        logs.say_on_standard_error({0: INFO, 1: ERROR}.get(rank))

    def follow(self, rank: int) -> None:
        directory = Path(self._settings.run.run_directory, "logs")
        application.log_to(directory, f"rank-{rank}")
        logs.divert_tensorflow(directory)

    def newest_saved(self) -> int:
        return CheckpointStore(Path(self._settings.run.run_directory, "checkpoints")).newest or 0


def _sharing_faults(model: ModelSettings, source: Vocabulary, target: Vocabulary) -> list[str]:
    """Two vocabularies of one size are not one."""
    if model.tied_embeddings != "all" or source.fingerprint == target.fingerprint:
        return []
    return [
        "--tied_embeddings=all: needs one joint vocabulary, and there is one for each language; take "
        "--tied_embeddings=target, or train a joint vocabulary."
    ]


def _shared_table_faults(settings: Settings, model: Model) -> list[str]:
    """Rows of a table that more reads than look-ups."""
    if not settings.strategy.sparse_embeddings or any(parameter.looked_up for parameter in model.parameters):
        return []
    return [
        f"--sparse_embeddings: --tied_embeddings={settings.model.tied_embeddings} has no source table of its own, and "
        "all of the shared one is read in every step; leave it out, or take --tied_embeddings=target."
    ]


def _facts(settings: Settings, session: Session, model: Model, layout: Layout, found: Survey) -> dict[str, str]:
    """What the run will be like, as texts by title."""
    strategy, schedule = settings.strategy, settings.schedule
    phase = phases(strategy, settings.row, session.workers, settings.optimizer)[-1]
    row = phase.strategy
    payloads = session.payloads(row) + (row.quorum > 1)  # on their way, and their sum
    own_slots = len(row.server_update.slots) + len(row.averaged_slots)
    copies = session.workers * (row.pull_encoding is not DENSE)  # of what each worker knows
    copies += session.payloads(row) * (row.staleness.compensation > 0)  # of what each had pulled for its payload
    copies += (session.payloads(row) - 1) * (1 + own_slots + (strategy.average_rate > 0)) * (row.local_gradient > 0)
    of_servers = 1 + own_slots + (strategy.average_rate > 0) + payloads * row.payload_vectors + copies
    of_worker = 1 + len(row.keeps) + (len(row.local_update.slots) if row.local_update else 0)
    megabytes = session.elements(layout) * 4 / 1e6
    step_tokens = strategy.global_batch_tokens or session.workers * round(found.target_tokens_per_batch)
    tokens = step_tokens * row.steps_per_update // session.workers
    law = LearningRates(schedule, strategy, phase).describe()
    tables = [each.size * 4 / 1e6 for each in layout.parameters if each.looked_up and strategy.sparse_embeddings]
    rows = {"Transfers": f"of {tables[0]:,.0f} MB of the source table the rows that batches read"} if tables else {}
    return {
        "Model": f"{settings.choice.model}, {layout.parameter_count:,} parameters, {settings.model.precision}",
        "Memory": f"{of_servers * megabytes:,.0f} MB for what servers hold, "
        f"{of_worker * megabytes:,.0f} MB for each worker; activations extra",
        "Corpus": found.describe(),
        "Strategy": f"{strategy.strategy}, {settings.optimizer.optimizer}; {session.describe()}",
        **rows,
        "Update": f"about {tokens:,} target tokens: {row.describe()}",
        "Learning rate": f"{schedule.learning_rate:g}, {schedule.schedule} after {schedule.warmup_updates:,} "
        f"{'local steps' if row.exchange.trains_replicas else 'updates'} of warm-up; {law}",
    }


def _lines(facts: dict[str, str], layout: Layout | None = None) -> list[str]:
    lines = [f"{title}: {text}" for title, text in facts.items()]
    return lines + (_parameter_table(layout) if layout else [])


def _parameter_table(layout: Layout) -> list[str]:
    """Parameters summed over the groups that their names begin with."""
    groups: dict[str, int] = {}
    for parameter in layout.parameters:
        group = "/".join(parameter.name.split("/")[:2])
        groups[group] = groups.get(group, 0) + int(np.prod(parameter.shape))
    return [
        "Parameters:",
        *(f"  {group:<32} {count:>12,}" for group, count in groups.items()),
    ]


if __name__ == "__main__":
    main()
