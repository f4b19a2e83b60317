"""Trains a translation model.

tfnmt-train --flagfile=configs/transformer_small.flags --data=data/software.en-de --run_directory=runs/first
"""

import contextlib
import dataclasses
from typing import NamedTuple

import numpy as np
from absl import logging

from tfnmt import runtime
from tfnmt.checkpoints import CheckpointSettings, CheckpointStore
from tfnmt.cluster.addresses import CHIEF
from tfnmt.cluster.chief import tasks_of
from tfnmt.cluster.tasks import serve
from tfnmt.commands import application, logs
from tfnmt.data.corpus import Corpus, find_corpus
from tfnmt.data.pipeline import training_batches
from tfnmt.data.settings import DataSettings
from tfnmt.data.survey import Survey, survey
from tfnmt.data.vocabulary import Vocabulary, load_vocabularies
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.engines.learning_rates import LearningRates
from tfnmt.engines.registry import ENGINES, EngineSettings, Place, build_engine, find_place
from tfnmt.layout import Layout
from tfnmt.models.base import Model, ModelSettings
from tfnmt.models.registry import SETTINGS, ModelChoice, build_model
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import setting
from tfnmt.strategies import STRATEGIES, RowSettings, StrategySettings, phases
from tfnmt.training.monitoring import Monitor, MonitoringSettings
from tfnmt.training.stopping import StoppingSettings, describe_limits
from tfnmt.training.trainer import SavingSettings, Trainer
from tfnmt.training.validation import Validation, ValidationSettings


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Where the run lives and what runs it."""

    run_directory: str = setting(
        "",
        "Directory of the run; training goes on from its newest checkpoint.",
        required=True,
        may_change=True,
    )
    vocabulary: str = setting(
        "",
        "Directory of the vocabulary that tfnmt-vocabulary made; empty for that of --data.",
    )
    engine: str = setting(
        "auto",
        "Where the strategy runs: local, one worker in this process; cluster, workers and parameter servers; "
        "simulated, virtual workers under a virtual clock; auto, a cluster unless one worker needs none.",
        choices=tuple(ENGINES),
        may_change=True,
    )
    threads: int = setting(0, "Cores to compute on; 0 for all.", minimum=0, may_change=True)
    dry_run: bool = setting(
        False,
        "Check and build everything, print what would be trained, and exit.",
        may_change=True,
    )


class Settings(NamedTuple):
    """All settings of a training run, in the order in which the command line asks for them."""

    run: RunSettings
    data: DataSettings
    choice: ModelChoice
    model: ModelSettings
    engine: EngineSettings
    strategy: StrategySettings
    row: RowSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    validation: ValidationSettings
    decoding: DecodingSettings
    stopping: StoppingSettings
    saving: SavingSettings
    checkpoints: CheckpointSettings
    monitoring: MonitoringSettings


REQUESTS = (
    RunSettings,
    DataSettings,
    ModelChoice,
    application.Choice("model", SETTINGS),
    application.Choice("engine", ENGINES),
    StrategySettings,
    application.Choice("strategy", STRATEGIES),
    OptimizerSettings,
    ScheduleSettings,
    ValidationSettings,
    DecodingSettings,
    StoppingSettings,
    SavingSettings,
    CheckpointSettings,
    MonitoringSettings,
)
"""What the command line asks for; the order is that of `Settings`."""


def main() -> None:
    """The console script."""
    application.run(_main, *REQUESTS)


def _main(*all_settings) -> int:
    settings = Settings(*all_settings)
    runtime.prepare(settings.run.threads or None)
    place = find_place(settings.run.engine, settings.engine, settings.strategy.strategy)
    if place.cluster is not None and place.cluster.job != CHIEF:
        return serve(place.cluster)
    corpus = find_corpus(settings.data)
    vocabularies = load_vocabularies(settings.run.vocabulary or settings.data.data)
    model = build_model(
        settings.choice.model,
        settings.model,
        *(vocabulary.size for vocabulary in vocabularies),
    )
    layout = Layout(model.parameters, place.servers)
    corpus.inspect()
    found = survey(corpus.train, *vocabularies, settings.data)
    facts = _facts(settings, place, model, layout, found)
    if settings.run.dry_run:
        print(application.configuration_table(*settings), *_lines(facts, layout), sep="\n")
        return 0
    run = RunDirectory.create_or_check(settings.run.run_directory, *settings, free=ENGINES.values())
    with run.lock():
        run.adopt_vocabularies(*(vocabulary.path for vocabulary in vocabularies))
        application.log_to(run.logs)
        for line in [*_lines(facts), describe_limits(settings.stopping)]:
            logging.info("%s", line)
        if place.cluster:
            logs.divert_tensorflow(run.logs)
            application.end_at_once()
        with tasks_of(place.cluster) if place.cluster else contextlib.nullcontext():
            return _train(settings, run, corpus, vocabularies, model, layout, place, facts)


def _train(
    settings: Settings,
    run: RunDirectory,
    corpus: Corpus,
    vocabularies: tuple[Vocabulary, Vocabulary],
    model: Model,
    layout: Layout,
    place: Place,
    facts: dict[str, str],
) -> int:
    """Builds the engine and everything around it, and trains to the end; the exit code."""

    def make_batches(position, worker, workers):
        return training_batches(
            corpus.train,
            *vocabularies,
            settings.data,
            seed=settings.strategy.seed,
            position=position,
            shard=worker,
            shards=workers,
        )

    engine = build_engine(
        place,
        settings.engine,
        model,
        layout,
        phases(settings.strategy, settings.row, place.workers, settings.optimizer),
        settings.schedule,
        settings.strategy,
        make_batches,
    )
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
    if trainer.resume():
        logging.info("Going on from update %s of %s.", f"{trainer.update:,}", run.path)
    monitor.describe(settings, facts)
    return trainer.train()


def _facts(settings: Settings, place: Place, model: Model, layout: Layout, found: Survey) -> dict[str, str]:
    """What the run will be like, as texts by title."""
    strategy, schedule = settings.strategy, settings.schedule
    row = phases(strategy, settings.row, place.workers, settings.optimizer)[-1].strategy
    slots = len(row.server_update.slots) + (strategy.average_rate > 0)
    megabytes = layout.size * 4 * (3 + slots) / 1e6
    step_tokens = strategy.global_batch_tokens or place.workers * round(found.target_tokens_per_batch)
    tokens = step_tokens * row.steps_per_update // place.workers
    law = LearningRates(schedule, strategy, row).describe()
    return {
        "Model": f"{settings.choice.model}, {layout.parameter_count:,} parameters, {settings.model.precision}",
        "Memory": f"{megabytes:,.0f} MB for parameters, gradient, replica and {slots} more vectors; activations extra",
        "Corpus": found.describe(),
        "Strategy": f"{strategy.strategy}, {settings.optimizer.optimizer}; {place.describe()}",
        "Update": f"about {tokens:,} target tokens: {row.describe()}",
        "Learning rate": f"{schedule.learning_rate:g}, {schedule.schedule} after {schedule.warmup_updates:,} updates "
        f"of warm-up; {law}",
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
