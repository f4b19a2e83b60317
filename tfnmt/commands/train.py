"""Trains a translation model.

tfnmt-train --flagfile=configs/transformer_small.flags --data=data/software.en-de --run_directory=runs/first
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import logging
from absl.logging import ERROR, INFO

from tfnmt.checkpoints import CheckpointStore
from tfnmt.cluster.addresses import CHIEF
from tfnmt.cluster.chief import tasks_of
from tfnmt.cluster.ranks import Ranks, RankSettings, RegroupError
from tfnmt.cluster.tasks import serve
from tfnmt.commands import application, logs
from tfnmt.commands.train_settings import REQUESTS, Settings, unseen_faults
from tfnmt.data.corpus import Corpus, find_corpus
from tfnmt.data.pipeline import training_batches
from tfnmt.data.settings import DataSettings
from tfnmt.data.survey import Survey, survey
from tfnmt.data.vocabulary import Vocabulary, load_vocabularies
from tfnmt.engines.base import Engine, EngineState
from tfnmt.engines.learning_rates import LearningRates
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.registry import (
    ENGINES,
    Place,
    build_engine,
    find_place,
    refuse_unsuitable,
)
from tfnmt.errors import refuse
from tfnmt.layout import Layout
from tfnmt.models.base import Model, ModelSettings
from tfnmt.models.registry import build_model
from tfnmt.run_directory import RunDirectory
from tfnmt.strategies import phases
from tfnmt.training.monitoring import Monitor
from tfnmt.training.stopping import describe_limits
from tfnmt.training.trainer import Trainer
from tfnmt.training.validation import Validation

if TYPE_CHECKING:
    from tfnmt.engines.horovod import HorovodEngine


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What a run is made of, beside its settings."""

    corpus: Corpus
    vocabularies: tuple[Vocabulary, Vocabulary]
    data: DataSettings
    model: Model
    layout: Layout
    workers: int

    @functools.cached_property
    def survey(self) -> Survey:
        """What the training text is like; the whole of it is read once."""
        return survey(self.corpus.train, *self.vocabularies, self.data, shards=self.workers)


class _Opened(NamedTuple):
    """What the process that leads knows beside: the facts of the run, and its locked directory but for a dry run."""

    facts: dict[str, str]
    run: RunDirectory | None


def main() -> None:
    """The console script."""
    application.run(_main, *REQUESTS)


def _main(*all_settings) -> int:
    settings = Settings(*all_settings)
    place = find_place(settings.run.engine, settings.engine, settings.strategy.strategy, settings.run.threads or None)
    if place.ranks is None:
        _refuse_unsuitable(settings, place)
        if place.cluster is not None and place.cluster.job != CHIEF:
            return serve(place.cluster)
        parts = _find_parts(settings, place)
        with _open_run(settings, place, parts) as opened:
            recipe = _recipe(settings, place, parts)
            return _lead(settings, place, parts, opened, lambda: build_engine(place, settings.engine, recipe))
    with place.ranks as ranks:
        application.end_at_once()
        return _train_elastically(settings, place, ranks)


def _train_elastically(settings: Settings, place: Place, ranks: Ranks) -> int:
    """One rank's part, whoever comes and goes; the exit code."""
    live, have_changed = None, False
    find_parts = functools.cache(functools.partial(_find_parts, settings, place))
    while True:
        try:
            if have_changed:
                ranks.regroup()
            return _train_with_ranks(settings, place._replace(workers=ranks.size), ranks, find_parts, live)
        except RegroupError as change:
            live, have_changed = change.state or live, True


def _train_with_ranks(
    settings: Settings, place: Place, ranks: Ranks, find_parts: Callable[[], _Parts], live: EngineState | None
) -> int:
    """One rank's part as long as the ranks stay the same; the exit code.

    Args:
      settings: of the run.
      place: where it trains.
      ranks: who is there.
      find_parts: what the run is made of, read once however often the ranks change.
      live: what this rank has come to, with others than are there now; None for a rank that begins.

    Raises:
      RegroupError: they have changed.
    """
    from tfnmt.engines.horovod import HorovodEngine  # which needs a package that not everybody has

    assert isinstance(settings.engine, RankSettings)
    logs.say_on_standard_error({0: INFO, 1: ERROR}.get(ranks.rank))  # Rank 1 speaks when rank 0 cannot.
    with contextlib.ExitStack() as held:
        with ranks.agreeing():
            _refuse_unsuitable(settings, place)
            parts = find_parts()
            opened = held.enter_context(_open_run(settings, place, parts)) if ranks.rank == 0 else None
        if settings.run.dry_run and not opened:
            return ranks.follow(lambda: int(ranks.command().code))
        store = CheckpointStore(Path(settings.run.run_directory, "checkpoints"))
        engine = HorovodEngine(
            _recipe(settings, place, parts),
            ranks=ranks,
            settings=settings.engine,
            newest_saved=lambda: store.newest or 0,
        )
        try:
            if opened:
                return ranks.lead(lambda: _lead(settings, place, parts, opened, lambda: engine, live))
            return ranks.follow(lambda: _follow(settings, ranks.rank, engine, live))
        except RegroupError as change:
            change.state = engine.live()
            raise


def _refuse_unsuitable(settings: Settings, place: Place) -> None:
    row = settings.row.row(place.workers, settings.optimizer)
    refuse_unsuitable(place, settings.engine, settings.strategy, row)


def _find_parts(settings: Settings, place: Place) -> _Parts:
    """Reads and checks what the run is made of."""
    corpus = find_corpus(settings.data)
    vocabularies = load_vocabularies(settings.run.vocabulary or settings.data.data)
    sizes = [vocabulary.size for vocabulary in vocabularies]
    model = build_model(settings.choice.model, settings.model, *sizes)
    refuse([*_sharing_faults(settings.model, *vocabularies), *unseen_faults(settings, bool(corpus.validation))])
    corpus.inspect()
    layout = Layout(model.parameters, place.servers)
    return _Parts(corpus, vocabularies, settings.data, model, layout, place.workers)


def _sharing_faults(model: ModelSettings, source: Vocabulary, target: Vocabulary) -> list[str]:
    """Two vocabularies of one size are not one."""
    if model.tied_embeddings != "all" or source.fingerprint == target.fingerprint:
        return []
    return [
        "--tied_embeddings=all: needs one joint vocabulary, and there is one for each language; take "
        "--tied_embeddings=target, or train a joint vocabulary."
    ]


@contextlib.contextmanager
def _open_run(settings: Settings, place: Place, parts: _Parts) -> Iterator[_Opened]:
    """Reads the corpus once and, for more than a dry run, makes the run directory or finds it, and locks it."""
    facts = _facts(settings, place, parts.model, parts.layout, parts.survey)
    if settings.run.dry_run:
        yield _Opened(facts, None)
        return
    with RunDirectory.locked(settings.run.run_directory, *settings, free=ENGINES.values()) as run:
        yield _Opened(facts, run)


def _lead(
    settings: Settings,
    place: Place,
    parts: _Parts,
    opened: _Opened,
    make_engine: Callable[[], Engine],
    live: EngineState | None = None,
) -> int:
    """Trains, or tells how it would."""
    facts, run = opened
    if run is None:
        print(application.configuration_table(*settings), *_lines(facts, parts.layout), sep="\n")
        return 0
    run.adopt_vocabularies(*(vocabulary.path for vocabulary in parts.vocabularies))
    application.log_to(run.logs)
    for line in [*_lines(facts), describe_limits(settings.stopping)]:
        logging.info("%s", line)
    if place.cluster or place.ranks:
        logs.divert_tensorflow(run.logs)
        application.end_at_once()
    with tasks_of(place.cluster) if place.cluster else contextlib.nullcontext():
        return _train(settings, run, parts, facts, make_engine(), live)


def _follow(settings: Settings, rank: int, engine: "HorovodEngine", live: EngineState | None) -> int:
    """Does what rank 0 says."""
    directory = Path(settings.run.run_directory, "logs")
    application.log_to(directory, f"rank-{rank}")
    logs.divert_tensorflow(directory)
    if live:
        engine.restore(live)
    return engine.follow()


def _recipe(settings: Settings, place: Place, parts: _Parts) -> Recipe:
    """What is trained."""

    def make_batches(position, worker, workers):
        return training_batches(
            parts.corpus.train,
            *parts.vocabularies,
            settings.data,
            seed=settings.strategy.seed,
            position=position,
            shard=worker,
            shards=workers,
        )

    trained = phases(settings.strategy, settings.row, place.workers, settings.optimizer)
    return Recipe(
        parts.model,
        parts.layout,
        trained,
        settings.schedule,
        settings.strategy,
        make_batches,
        streams=place.streams,
    )


def _train(
    settings: Settings,
    run: RunDirectory,
    parts: _Parts,
    facts: dict[str, str],
    engine: Engine,
    live: EngineState | None,
) -> int:
    """Builds everything around the engine, and trains to the end; the exit code."""
    corpus, vocabularies, model, layout = parts.corpus, parts.vocabularies, parts.model, parts.layout
    validation = None
    if corpus.validation:
        validation = Validation(
            model,
            layout,
            corpus.validation,
            vocabularies,
            settings.data,
            settings.decoding,
            settings.validation,
            corpus.target_language,
        )
    store = CheckpointStore(run.checkpoints, settings.checkpoints.keep_last, settings.checkpoints.keep_best)
    monitor = Monitor(run, settings.monitoring, settings.stopping)
    trainer = Trainer(
        engine,
        layout,
        store,
        monitor,
        validation,
        stopping=settings.stopping,
        schedule=settings.schedule,
        saving=settings.saving,
        evaluate_every_updates=settings.validation.evaluate_every_updates,
    )
    if trainer.resume(live):
        logging.info("Going on from update %s of %s.", f"{trainer.update:,}", run.path)
    monitor.describe(settings, facts)
    return trainer.train()


def _facts(settings: Settings, place: Place, model: Model, layout: Layout, found: Survey) -> dict[str, str]:
    """What the run will be like, as texts by title."""
    strategy, schedule = settings.strategy, settings.schedule
    phase = phases(strategy, settings.row, place.workers, settings.optimizer)[-1]
    row = phase.strategy
    payloads = (1 if place.ranks else place.workers) + (row.quorum > 1)  # on their way, and their sum
    own_slots = len(row.server_update.slots) + len(row.averaged_slots)
    of_servers = 1 + own_slots + (strategy.average_rate > 0) + payloads * row.payload_vectors
    of_worker = 1 + len(row.exchange.keeps) + (len(row.local_update.slots) if row.local_update else 0)
    megabytes = layout.size * 4 / 1e6
    step_tokens = strategy.global_batch_tokens or place.workers * round(found.target_tokens_per_batch)
    tokens = step_tokens * row.steps_per_update // place.workers
    law = LearningRates(schedule, strategy, phase).describe()
    return {
        "Model": f"{settings.choice.model}, {layout.parameter_count:,} parameters, {settings.model.precision}",
        "Memory": f"{of_servers * megabytes:,.0f} MB for what servers hold, "
        f"{of_worker * megabytes:,.0f} MB for each worker; activations extra",
        "Corpus": found.describe(),
        "Strategy": f"{strategy.strategy}, {settings.optimizer.optimizer}; {place.describe()}",
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
