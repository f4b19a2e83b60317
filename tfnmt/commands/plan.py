"""Says which strategy on how many machines is soonest at the wanted quality, and the command that starts it.

tfnmt-plan --flagfile=configs/transformer_small.flags --data=data/software.en-de --output=runs/plan \
  --network_bytes_per_second=125e6 --workers=2,4,8

It trains for about a minute to see what a step, an update and a meeting cost on this machine (`--probe` takes an
earlier plan's figures instead), and predicts the rest. `--run_directory` names a run of the same model and data: from
its noise scale and its curve follow the tokens that larger batches need, and the time to its quality. Of two runs with
updates of different sizes the curves alone say so.
"""

import dataclasses
import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from graphs.encodings import ENCODINGS
from tfnmt import runtime
from tfnmt.cluster import link_speed
from tfnmt.commands import application, logs
from tfnmt.data.corpus import find_corpus
from tfnmt.data.pipeline import training_batches
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import load_vocabularies
from tfnmt.diagnosis import processor
from tfnmt.engines import session
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.registry import SimulationSettings
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.errors import UserError, refuse
from tfnmt.layout import Layout
from tfnmt.models.base import ModelSettings
from tfnmt.models.registry import SETTINGS, ModelChoice, build_model
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.planning import ranking
from tfnmt.planning.goal import Goal, arrival, critical_batch_of, goal_of
from tfnmt.planning.probe import Probe, measure
from tfnmt.planning.ranking import Candidate, Ranked
from tfnmt.progress import Progress
from tfnmt.run_directory import RunDirectory, new_directory
from tfnmt.settings import flagfile_text, setting
from tfnmt.strategies import StrategySettings, Sync, phases

SHOWN = 12
"""Lines of the ranking that are printed; the files have all."""


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """Which machines there are to choose from, and what is known of the way to the wanted quality."""

    output: str = setting(
        "", "Directory of the plan: plan.md, plan.json, plan.png and two flagfiles.", required=True, is_path=True
    )
    workers: tuple[str, ...] = setting(("2", "4", "8", "16"), "Numbers of workers to choose from, a machine each.")
    parameter_servers: int = setting(
        0, "Parameter servers, a machine each; 0 for as many as there are workers.", minimum=0
    )
    local_steps: tuple[str, ...] = setting(
        ("8", "30", "100"), "Steps between meetings to choose from, where a row has such."
    )
    encodings: tuple[str, ...] = setting(
        ("none", "float16", "bfloat16"),
        "Values of --encoding to choose from. What the others lose may cost more tokens than is predicted; so they are "
        "tried only where they are named.",
        choices=tuple(ENCODINGS),
    )
    network_bytes_per_second: float = setting(
        1.25e8, "Speed of each machine's link, in each direction, where there are no --hosts.", minimum=1
    )
    network_latency_seconds: float = setting(
        0.0001, "Seconds before the first byte of a transfer arrives, where there are no --hosts.", minimum=0
    )
    hosts: tuple[str, ...] = setting(
        (),
        "Machines to measure the network to instead, host:port, where `tfnmt-doctor --answer=port` runs; the slowest "
        "link counts.",
    )
    jitter: float = setting(0.1, "Standard deviation of the logarithm of a step's compute time.", minimum=0)
    price_per_hour: float = setting(0.0, "Price of a machine; 0 for none.", minimum=0)
    probe: str = setting("", "Plan.json of an earlier plan whose machine, model and data these are.", is_path=True)
    run_directory: tuple[str, ...] = setting(
        (),
        "A run of this model on this data, for its noise scale and its curve; of several with updates of different "
        "sizes, the curves say more of what larger ones cost than the noise scale.",
        is_path=True,
    )
    target_bleu: float | None = setting(
        None,
        "Validation BLEU to reach, at most the best of each run; that by default.",
        minimum=0,
        maximum=100,
        only_with={"run_directory": None},
    )
    critical_batch_tokens: float = setting(
        0.0, "Critical batch in target tokens, in place of what runs say; 0 for unknown.", minimum=0
    )
    vocabulary: str = setting("", "Directory of the vocabulary; empty for that of --data.", is_path=True)
    threads: int = setting(0, "Cores of a worker; 0 for all.", minimum=0)

    def faults(self) -> list[str]:
        """Numbers that are none."""
        lists = {"workers": (self.workers, 2), "local_steps": (self.local_steps, 1)}
        return [
            f"--{name}={','.join(texts)}: must be numbers from {least} on, with commas in between."
            for name, (texts, least) in lists.items()
            if not texts or not all(text.isdecimal() and int(text) >= least for text in texts)
        ]


def main() -> None:
    """The console script."""
    application.run(
        _main,
        PlanSettings,
        DataSettings,
        ModelChoice,
        application.Choice("model", SETTINGS),
        OptimizerSettings,
    )


def _main(
    plan: PlanSettings, data: DataSettings, choice: ModelChoice, model: ModelSettings, optimizer: OptimizerSettings
) -> int:
    if data.train_pipe:
        raise UserError("--train_pipe: a plan reads its text more than once; give files of such pairs.")
    network = _network(plan)
    output = new_directory(plan.output) if not Path(plan.output).exists() else Path(plan.output)
    goal = _goal(plan) if plan.run_directory else Goal(plan.critical_batch_tokens or None)
    probe = _read_probe(plan.probe) if plan.probe else _measured_probe(plan, data, choice, model, optimizer)
    print(probe.describe())
    print(_describe(network, goal))
    print(ranking.describe_tables(probe, sorted(set(map(int, plan.workers)))))
    ranked = _ranked(plan, probe, network, optimizer, goal)
    best = ranking.best_of_each(ranked)
    text = ranking.table(best)
    print("".join(text.splitlines(keepends=True)[: SHOWN + 2]), end="")
    (output / "plan.md").write_text(text)
    (output / "plan.json").write_text(json.dumps(ranking.document(probe, network, goal, ranked), indent=1) + "\n")
    ranking.picture(ranked).savefig(output / "plan.png")
    first = best[0].candidate
    settings = [
        data,
        choice,
        model,
        optimizer,
        first.row,
        StrategySettings(strategy=first.strategy, encoding=first.encoding, sparse_embeddings=first.sparse_embeddings),
    ]
    costs = ranking.with_probe(network, probe)
    virtual = SimulationSettings(**vars(costs), workers=first.workers, parameter_servers=max(first.servers, 1))
    (output / "start.flags").write_text(flagfile_text(*settings))
    (output / "simulated.flags").write_text(flagfile_text(*settings, virtual) + "--engine=simulated\n")
    print(f"All {len(ranked)} are in {output}, with a picture. To start the first one:")
    print(f"  {_start(first, output / 'start.flags')} --run_directory=RUN")
    without = f", whose tables are whole (without --{ranking.VOCABULARY_PARALLEL})" * (first.model_parallel > 1)
    print(f"To train it here under this clock, with virtual machines{without}:")
    print(f"  tfnmt-train --flagfile={output / 'simulated.flags'} --run_directory=RUN")
    return 0


def _network(plan: PlanSettings) -> CostSettings:
    """The network of the flags, or that to `--hosts`.

    Raises:
      UserError: both are given.
    """
    given = [name for name in ("network_bytes_per_second", "network_latency_seconds") if application.given(name)]
    if plan.hosts:
        refuse([f"--{name} does nothing with --hosts, which measure it." for name in given])
    links = [link_speed.measure(host) for host in plan.hosts]
    return CostSettings(
        network_bytes_per_second=min((link.bytes_per_second for link in links), default=plan.network_bytes_per_second),
        network_latency_seconds=max((link.latency_seconds for link in links), default=plan.network_latency_seconds),
        jitter=plan.jitter,
    )


def _goal(plan: PlanSettings) -> Goal:
    """What runs tell of the way to the wanted quality.

    Raises:
      UserError: one of them has no evaluation, or none as good as that.
    """
    records = {run: RunDirectory(run).read_metrics() for run in plan.run_directory}
    curves = {run: [each for each in found if each["kind"] == "validation"] for run, found in records.items()}
    refuse([f"--run_directory={run}: has no evaluation yet." for run, curve in curves.items() if not curve])
    best = {run: max(each["bleu"] for each in curve) for run, curve in curves.items()}
    target = min(best.values()) if plan.target_bleu is None else plan.target_bleu
    refuse(
        [
            f"--target_bleu={target:g}: {run} has come to {bleu:.1f}; take that or less."
            for run, bleu in best.items()
            if bleu < target
        ]
    )
    arrivals = [found for curve in curves.values() if (found := arrival(curve, target))]
    told = (each["noise_scale_tokens"] for found in records.values() for each in reversed(found) if _has_scale(each))
    critical = plan.critical_batch_tokens or critical_batch_of(arrivals) or next(told, None)
    return goal_of(arrivals, target, critical)


def _has_scale(record: Mapping[str, Any]) -> bool:
    return "noise_scale_tokens" in record


def _measured_probe(
    plan: PlanSettings, data: DataSettings, choice: ModelChoice, model: ModelSettings, optimizer: OptimizerSettings
) -> Probe:
    corpus = find_corpus(data)
    vocabularies = load_vocabularies(plan.vocabulary or data.data)
    built = build_model(choice.model, model, *(vocabulary.size for vocabulary in vocabularies))
    corpus.inspect()
    application.end_at_once()  # behind the probe the process belongs to a cluster of its own
    runtime.prepare(plan.threads or None, in_streams=True)
    shared, streams = StrategySettings(strategy="sync"), runtime.streams()

    def batches(positions: int) -> tf.data.Dataset:
        return training_batches(
            corpus.train, *vocabularies, dataclasses.replace(data, batch_positions=positions), seed=1
        )

    recipe = Recipe(
        built,
        Layout(built.parameters),
        phases(shared, Sync(), 1, optimizer),
        ScheduleSettings(),
        shared,
        lambda *_: batches(data.batch_positions),
        streams=streams,
    )
    with tempfile.TemporaryDirectory() as leaves_nothing:
        logs.divert_tensorflow(leaves_nothing)
        machine = f"{processor()}, {session.counted(plan.threads or runtime.usable_cores(), 'core')}"
        return measure(machine, recipe, batches, data.batch_positions)


def _read_probe(path: str) -> Probe:
    try:
        return ranking.read_probe(Path(path))
    except (OSError, ValueError) as error:
        raise UserError(f"--probe={path}: is no plan.json of tfnmt-plan: {error}.") from error


def _describe(network: CostSettings, goal: Goal) -> str:
    parts = [
        f"Network: {network.network_bytes_per_second / 1e6:,.4g} MB/s for each machine in each direction, "
        f"{1000 * network.network_latency_seconds:.3g} ms before the first byte."
    ]
    if goal.critical_tokens:
        parts.append(f"Critical batch: {goal.critical_tokens:,.0f} target tokens.")
    else:
        parts.append(
            "The critical batch is unknown, so that the speed-up is that of target tokens alone: --run_directory "
            "of a run of --strategy=sync or with --global_batch_tokens, or of two with updates of two sizes, tells it."
        )
    parts.append("What rare meetings and stale gradients cost in quality is not predicted.")
    if goal.target_bleu is not None:
        parts.append(f"Hours are those to a validation BLEU of {goal.target_bleu:.1f}.")
    return "\n".join(parts)


def _ranked(
    plan: PlanSettings, probe: Probe, network: CostSettings, optimizer: OptimizerSettings, goal: Goal
) -> list[Ranked]:
    workers, local_steps = (sorted(set(map(int, texts))) for texts in (plan.workers, plan.local_steps))
    chosen, sparse = (workers, plan.parameter_servers, local_steps, plan.encodings), probe.source_rows > 0
    found = list(ranking.candidates(*chosen, sparse=sparse, quorums=plan.jitter > 0))  # or all come at once
    with Progress("Predicting", len(found), "candidates") as progress:
        advanced = _advancing(found, progress)
        return ranking.rank(advanced, probe, network, optimizer, goal, plan.price_per_hour)


def _advancing(found: Sequence[Candidate], progress: Progress) -> Iterator[Candidate]:
    for candidate in found:
        yield candidate
        progress.advance()


def _start(candidate: Candidate, flagfile: Path) -> str:
    """The command for the hosts of a candidate, whose names nobody knows yet."""
    flags = f"--flagfile={shlex.quote(str(flagfile))}"
    if candidate.strategy == ranking.SINGLE:
        return f"tfnmt-train {flags}"
    workers = [f"worker{number}" for number in range(candidate.workers)]
    if not candidate.servers:
        return (
            f"horovodrun --gloo -np {len(workers)} -H {','.join(f'{name}:1' for name in workers)} tfnmt-train {flags}"
            f"{''.join(f' --{name}={value}' for name, value in candidate.rank_flags().items())}"
        )
    servers = [f"server{number}" for number in range(candidate.servers)]
    hosts = {"chief_hosts": workers[:1], "worker_hosts": workers, "ps_hosts": servers}
    ports = {"chief_hosts": 2221, "worker_hosts": 2222, "ps_hosts": 2222}
    words = [f"--{name}={','.join(f'{host}:{ports[name]}' for host in names)}" for name, names in hosts.items()]
    return f"tfnmt-launch --print_commands {flags} {' '.join(words)}"


if __name__ == "__main__":
    main()
