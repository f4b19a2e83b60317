"""What the command line of tfnmt-train asks for, which tfnmt-launch hands on."""

import dataclasses
from typing import Any, NamedTuple

from tfnmt.checkpoints import CheckpointSettings
from tfnmt.cluster.elasticity import is_elastic
from tfnmt.commands import application
from tfnmt.data.settings import DataSettings
from tfnmt.engines import registry
from tfnmt.models.base import ModelSettings
from tfnmt.models.registry import SETTINGS, ModelChoice
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.settings import setting
from tfnmt.strategies import STRATEGIES, RowSettings, Strategy, StrategySettings
from tfnmt.training.monitoring import MonitoringSettings
from tfnmt.training.stopping import StoppingSettings
from tfnmt.training.trainer import SavingSettings
from tfnmt.training.validation import ValidationDecodingSettings, ValidationSettings


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Where the run lives and what runs it."""

    run_directory: str = setting(
        "",
        "Directory of the run; training goes on from its newest checkpoint.",
        required=True,
        may_change=True,
        is_path=True,
    )
    vocabulary: str = setting(
        "",
        "Directory of the vocabulary that tfnmt-vocabulary made; empty for that of --data.",
        is_path=True,
    )
    initial_model: str = setting(
        "",
        "Run directory of a trained model, with whose best parameters training begins: to fine-tune it on other text "
        "or, with fewer --encoder_layers or --decoder_layers, to train what is left of it. Flags of the model that are "
        "not given are as there; the vocabulary (--vocabulary) must be its own. Empty for random parameters.",
        is_path=True,
    )
    engine: str = setting(
        "auto",
        "Where the strategy runs: local, one worker in this process; cluster, workers and parameter servers; horovod, "
        "ranks that reduce among themselves; simulated, virtual workers under a virtual clock; auto, ranks where a "
        "launcher has started some, a cluster otherwise, unless one worker needs none.",
        choices=tuple(registry.ENGINES),
        may_change=True,
    )
    threads: int = setting(
        0,
        "Cores for each process to compute on; 0 for all, or an equal share where workers or ranks have one machine.",
        minimum=0,
        may_change=True,
    )
    dry_run: bool = setting(
        False,
        "Check everything, build the engine and its graphs, print what would be trained, and exit; a chief waits for "
        "no task of another process.",
        may_change=True,
    )


class Settings(NamedTuple):
    """All settings of a training run, in the order in which the command line asks for them."""

    run: RunSettings
    data: DataSettings
    choice: ModelChoice
    model: ModelSettings
    engine: Any  # of the class that registry.SETTINGS has for --engine
    strategy: StrategySettings
    row: RowSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    validation: ValidationSettings
    decoding: ValidationDecodingSettings
    stopping: StoppingSettings
    saving: SavingSettings
    checkpoints: CheckpointSettings
    monitoring: MonitoringSettings


_CHOSEN = {
    "model": application.Choice("model", SETTINGS),
    "engine": application.Choice("engine", registry.SETTINGS),
    "row": application.Choice("strategy", STRATEGIES),
}
REQUESTS = tuple({**Settings.__annotations__, **_CHOSEN}.values())
"""What the command line asks for; the order is that of `Settings`."""


def unseen_faults(settings: Settings, has_validation: bool) -> list[str]:
    """What waits for evaluations, or for a metric of theirs, that never come."""
    stopping = settings.stopping
    if stopping.early_stopping_metric == "command" and not settings.validation.metrics_command:
        return ["--early_stopping_metric=command: needs --metrics_command, whose first number it is."]
    if has_validation and settings.validation.evaluate_every_updates:
        return []
    waiting = {
        f"--early_stopping_patience={stopping.early_stopping_patience}": stopping.early_stopping_patience > 0,
        f"--early_stopping_target={stopping.early_stopping_target}": stopping.early_stopping_target is not None,
        "--schedule=plateau": settings.schedule.schedule == "plateau",
    }
    lacking = "--evaluate_every_updates=0" if has_validation else "no validation files (--validation_source)"
    return [f"{flag}: needs evaluations, and there are none: {lacking}." for flag, waits in waiting.items() if waits]


def of_one_epoch(settings: Settings) -> Settings:
    """`settings` whose training ends with the pipe, if pairs come through one."""
    if not settings.data.train_pipe or settings.stopping.max_epochs:
        return settings
    return settings._replace(stopping=dataclasses.replace(settings.stopping, max_epochs=1))


def pipe_faults(settings: Settings) -> list[str]:
    """What does not go with pairs that come once, through a pipe."""
    flag = f"--train_pipe={settings.data.train_pipe}"
    if not settings.data.train_pipe:
        return []
    faults = []
    if settings.stopping.max_epochs > 1:
        faults.append(f"--max_epochs={settings.stopping.max_epochs}: {flag} is read once; leave it out.")
    if settings.run.dry_run:
        faults.append(f"--dry_run: would take pairs out of {flag}; give a file of such pairs by --train_source.")
    if is_elastic():
        faults.append(
            f"{flag}: only as many workers as began to read it can go on, and ranks come and go; start them without a "
            "host discovery script."
        )
    return faults


def idle_cooldown_faults(settings: Settings, row: Strategy) -> list[str]:
    """A cool-down of the servers' Adam that comes when replicas are trained, and servers have none."""
    updates, warm_start = settings.optimizer.adam_cooldown_updates, settings.strategy.warm_start_updates
    if not updates or updates < warm_start or not row.exchange.trains_replicas:
        return []
    return [
        f"--adam_cooldown_updates={updates} does nothing with --strategy={settings.strategy.strategy} and "
        f"--warm_start_updates={warm_start}; leave it out."
    ]
