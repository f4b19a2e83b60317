"""Where a row runs, what is refused there, and what a dry run finds."""

import contextlib
import types

import pytest

from tests import toy
from tests.engines.building import build
from tfnmt import runtime
from tfnmt.cluster.addresses import ClusterSettings
from tfnmt.cluster.ranks import RankSettings
from tfnmt.engines import rank_session, session
from tfnmt.engines.local import LocalEngine, LocalSettings
from tfnmt.engines.registry import SETTINGS, open_session
from tfnmt.engines.simulated import SimulatedEngine, SimulationSettings
from tfnmt.errors import UserError
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import (
    Async,
    Bmuf,
    DelayedAsync,
    Downpour,
    ModelAverage,
    RingAllreduce,
    Single,
    StrategySettings,
    SummedAsync,
    Sync,
    phases,
)
from tfnmt.strategies.elastic import Elastic
from tfnmt.strategies.streaming import Streaming

ADAM = OptimizerSettings()


def session_of(engine, settings=None, strategy="it", threads=None, environment=()):
    return open_session(engine, settings or SETTINGS[engine](workers=2), strategy, threads, dict(environment))


@pytest.fixture(name="two_ranks")
def _two_ranks(monkeypatch):
    """Ranks that have met without Horovod."""
    monkeypatch.setattr(rank_session, "Ranks", lambda settings: types.SimpleNamespace(size=2))


@pytest.mark.parametrize(
    "engine, settings, strategy, workers, servers, words",
    [
        ("auto", ClusterSettings(), "single", 1, 1, "1 worker in this process"),
        ("auto", ClusterSettings(workers=2), "single", 2, 1, "2 embedded workers, 1 parameter server"),
        (
            "auto",
            ClusterSettings(workers=2, parameter_servers=3),
            "sync",
            2,
            3,
            "2 embedded workers, 3 parameter servers",
        ),
        ("auto", ClusterSettings(), "sync", 1, 1, "1 embedded worker, 1 parameter server"),
        ("cluster", ClusterSettings(), "single", 1, 1, "1 embedded worker, 1 parameter server"),
        ("local", LocalSettings(), "bmuf", 1, 1, "1 worker in this process"),
        (
            "simulated",
            SimulationSettings(workers=4, parameter_servers=2),
            "sync",
            4,
            2,
            "4 virtual workers, 2 parameter servers",
        ),
    ],
)
def test_processes_follow_from_the_flags(engine, settings, strategy, workers, servers, words):
    session = session_of(engine, settings, strategy)
    assert (session.workers, session.servers, session.describe()) == (workers, servers, words)


def test_one_worker_of_a_cluster_with_addresses_is_not_alone():
    hosts = {"chief_hosts": ("a:1",), "worker_hosts": ("b:1",), "ps_hosts": ("c:1",)}
    session = session_of("auto", ClusterSettings(**hosts), "single", 2)
    assert session.describe() == "1 worker, 1 parameter server"


@pytest.mark.parametrize(
    "workers, threads, streams",
    [(1, None, runtime.streams_on(runtime.usable_cores())), (runtime.usable_cores(), None, 1), (1, 2, 2), (3, 2, 2)],
)
def test_workers_of_one_machine_share_its_cores(workers, threads, streams):
    assert session_of("cluster", ClusterSettings(workers=workers), "sync", threads).streams == streams


def test_of_other_machines_nobody_knows_the_cores():
    hosts = {"chief_hosts": ("a:1",), "worker_hosts": ("127.0.0.1:1",), "ps_hosts": ("127.0.0.1:2",)}
    assert session_of("cluster", ClusterSettings(**hosts), "sync", 2).streams == 1


def faults(session, row, **shared):
    settings = StrategySettings(strategy="it", **shared)
    return session.faults(settings, phases(settings, row, session.workers, ADAM)[-1].strategy)


@pytest.mark.parametrize(
    "engine, settings, row, fault",
    [
        ("simulated", {}, Single(), "--strategy=it: cannot use 2 workers; choose another --strategy."),
        (
            "simulated",
            {"network": "ring"},
            Async(),
            "--network=ring: --strategy=it has no barrier; use --network=star.",
        ),
        (
            "horovod",
            {},
            Async(),
            "--strategy=it: has no barrier, and ranks wait for all; use --engine=cluster.",
        ),
        (
            "cluster",
            {},
            RingAllreduce(),
            "--strategy=it: has no parameter servers; use --engine=horovod, or --strategy=sync for a cluster.",
        ),
    ],
)
def test_rows_that_cannot_run_are_refused_with_what_can(two_ranks, engine, settings, row, fault):
    session = session_of(engine, SETTINGS[engine](workers=2, **settings))
    assert faults(session, row) == [fault]


@pytest.mark.parametrize(
    "engine, row",
    [
        ("horovod", RingAllreduce()),
        ("horovod", Bmuf()),
        ("cluster", Async()),
        ("cluster", Sync()),
        ("simulated", RingAllreduce()),
        ("simulated", Async()),
    ],
)
def test_rows_run_on_their_engines(two_ranks, engine, row):
    """The negative control."""
    assert faults(session_of(engine), row) == []


@pytest.mark.parametrize(
    "engine, settings, quorum, fault",
    [
        ("cluster", ClusterSettings(workers=3), 2, None),
        ("simulated", SimulationSettings(workers=3), 2, None),
        ("simulated", SimulationSettings(workers=3), 3, "of 3 workers an update waits for all anyway"),
        ("simulated", SimulationSettings(workers=1), 1, "of 1 worker an update waits for all anyway"),
        ("simulated", SimulationSettings(workers=3, network="ring"), 2, "without parameter servers"),
        ("horovod", RankSettings(), 1, "without parameter servers"),
    ],
)
@pytest.mark.parametrize("row", [Sync, Bmuf])
def test_a_quorum_is_of_fewer_workers_and_on_servers(two_ranks, engine, settings, quorum, fault, row):
    found = faults(session_of(engine, settings), row(quorum=quorum))
    assert [text.startswith(f"--quorum={quorum}: {fault}") for text in found] == [True] * (fault is not None)


def test_a_single_worker_and_a_virtual_ring_run():
    """The negative control."""
    assert faults(session_of("simulated", SimulationSettings(workers=1)), Single()) == []
    assert faults(session_of("simulated", SimulationSettings(workers=2, network="ring")), Sync()) == []


def test_stragglers_are_workers():
    assert not SimulationSettings(workers=4, stragglers=("3:2",)).faults()
    (fault,) = SimulationSettings(workers=4, stragglers=("4:2",)).faults()
    assert fault == "--stragglers=4:2: --workers=4 are numbered from 0 to 3."


@pytest.mark.parametrize(
    "text, is_one", [("0:0.5", True), ("0:0", False), ("-1:2", False), ("1", False), ("a:2", False)]
)
def test_a_straggler_is_a_number_and_a_positive_factor(text, is_one):
    fault = f"--stragglers={text}: must be worker:factor, such as 3:2.5."
    assert SimulationSettings(workers=4, stragglers=(text,)).faults() == [fault] * (not is_one)


@pytest.mark.parametrize(
    "row, shared, fault",
    [
        (Bmuf(), {}, "--reduction_pieces=2: --strategy=it does not push at every step"),
        (RingAllreduce(), {"global_batch_tokens": 99}, "--reduction_pieces=2: --global_batch_tokens adds up"),
        (RingAllreduce(), {}, None),
    ],
)
def test_pieces_need_a_gradient_that_is_pushed_alone(two_ranks, row, shared, fault):
    found = faults(session_of("horovod", RankSettings(reduction_pieces=2)), row, **shared)
    assert [text.startswith(fault) for text in found] == [True] * (fault is not None)


@pytest.mark.parametrize(
    "row, shared, fault",
    [
        (Bmuf(), {}, "--vocabulary_parallel: --strategy=it takes steps between its meetings"),
        (RingAllreduce(), {"global_batch_tokens": 99}, "--vocabulary_parallel: ranks would read different numbers"),
        (RingAllreduce(), {"encoding": "float16"}, "--vocabulary_parallel: gradients are summed before"),
        (RingAllreduce(), {}, None),
        (Sync(), {}, None),
    ],
)
def test_shared_tables_need_all_ranks_in_every_step(two_ranks, row, shared, fault):
    found = faults(session_of("horovod", RankSettings(vocabulary_parallel=True)), row, **shared)
    assert [text.startswith(fault) for text in found] == [True] * (fault is not None)


@pytest.mark.parametrize("together, is_fault", [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_groups_that_share_tables_are_equal(two_ranks, together, is_fault):
    settings = RankSettings(vocabulary_parallel=True, model_parallel=together)
    fault = f"--model_parallel={together}: 2 ranks cannot be parted into groups of so many; choose 1, 2, or 0 for all."
    assert faults(session_of("horovod", settings), RingAllreduce()) == [fault] * is_fault


def test_shared_tables_need_ranks_that_stay(two_ranks, monkeypatch):
    monkeypatch.setattr(rank_session, "is_elastic", lambda: True)
    (found,) = faults(session_of("horovod", RankSettings(vocabulary_parallel=True)), RingAllreduce())
    assert found.startswith("--vocabulary_parallel: a rank that is lost takes its rows")


@pytest.mark.parametrize(
    "encoding, slots, engine, settings, is_fault",
    [
        ("float16", "average", "horovod", RankSettings(), True),
        ("topk", "average", "simulated", SimulationSettings(network="ring"), True),
        ("topk", "average", "simulated", SimulationSettings(), False),
        ("float16", "keep", "horovod", RankSettings(), False),
        ("none", "average", "horovod", RankSettings(), False),
    ],
)
def test_averaged_slots_are_encoded_where_there_are_servers(two_ranks, encoding, slots, engine, settings, is_fault):
    found = faults(session_of(engine, settings), Bmuf(local_slots=slots), encoding=encoding)
    assert [text.startswith(f"--encoding={encoding}: without parameter servers") for text in found] == [True] * is_fault


@pytest.mark.parametrize(
    "engine, settings, row, is_fault",
    [
        ("horovod", RankSettings(), Sync(), True),
        ("simulated", SimulationSettings(), RingAllreduce(), True),
        ("simulated", SimulationSettings(network="ring"), Sync(), True),
        ("simulated", SimulationSettings(), Sync(), False),
    ],
)
def test_pulls_are_encoded_where_there_are_some(two_ranks, engine, settings, row, is_fault):
    found = faults(session_of(engine, settings), row, pull_encoding="int8")
    assert found == ["--pull_encoding=int8: nothing is pulled without parameter servers; leave it out."] * is_fault


@pytest.mark.parametrize(
    "engine, settings, row, fault",
    [
        ("horovod", RankSettings(), Sync(), None),
        ("horovod", RankSettings(), ModelAverage(), "--strategy=it does no update of all workers' gradients"),
        ("simulated", SimulationSettings(), RingAllreduce(), None),
        ("simulated", SimulationSettings(workers=1), RingAllreduce(), "one worker has nobody to whom"),
        ("simulated", SimulationSettings(network="ring"), Sync(), None),
        ("simulated", SimulationSettings(), Sync(), "parameter servers move one set of parameters"),
        ("simulated", SimulationSettings(), Async(), "--strategy=it does no update of all workers' gradients"),
        ("cluster", ClusterSettings(workers=2), Sync(), "parameter servers move one set of parameters"),
    ],
)
def test_replicas_move_by_their_own_gradients_where_each_worker_has_one(two_ranks, engine, settings, row, fault):
    found = faults(session_of(engine, settings), row, encoding="topk", local_gradient_updates=9)
    assert [text.startswith(f"--local_gradient_updates=9: {fault}") for text in found] == [True] * (fault is not None)


@pytest.mark.parametrize(
    "engine, settings, row, shared, fault",
    [
        ("simulated", SimulationSettings(), Sync(), {}, None),
        ("simulated", SimulationSettings(), SummedAsync(), {"warm_start_updates": 2}, None),
        ("simulated", SimulationSettings(), DelayedAsync(), {}, None),
        ("simulated", SimulationSettings(), Downpour(push_every=2, pull_every=2), {}, None),
        ("simulated", SimulationSettings(), Downpour(push_every=2, pull_every=4), {}, "--strategy=it pulls at other"),
        ("simulated", SimulationSettings(), ModelAverage(), {}, "--strategy=it trains replicas, which move in every"),
        ("simulated", SimulationSettings(), Elastic(), {}, "--strategy=it trains replicas, which move in every"),
        ("simulated", SimulationSettings(), Streaming(), {}, "--strategy=it trains replicas, which move in every"),
        ("simulated", SimulationSettings(), Sync(), {"encoding": "float16"}, "--encoding=float16 encodes whole"),
        ("simulated", SimulationSettings(), Sync(), {"pull_encoding": "int8"}, "--pull_encoding=int8 encodes whole"),
        ("simulated", SimulationSettings(network="ring"), Sync(), {}, "nothing is pulled without parameter servers"),
        ("horovod", RankSettings(), Sync(), {}, "nothing is pulled without parameter servers"),
        ("local", LocalSettings(), Single(), {}, "nothing is pulled without parameter servers"),
    ],
)
def test_rows_of_a_table_travel_where_gradients_are_pushed(two_ranks, engine, settings, row, shared, fault):
    found = faults(session_of(engine, settings), row, sparse_embeddings=True, **shared)
    assert [text.startswith(f"--sparse_embeddings: {fault}") for text in found] == [True] * (fault is not None)


@pytest.mark.parametrize("workers, elastic, is_fault", [(1, False, True), (1, True, False), (2, False, False)])
def test_blocks_go_by_speed_where_there_are_several_workers(monkeypatch, workers, elastic, is_fault):
    """Or may be again."""
    monkeypatch.setattr(session, "is_elastic", lambda: elastic)
    found = faults(session_of("simulated", SimulationSettings(workers=workers)), ModelAverage(blocks_by_speed=True))
    fault = "--blocks_by_speed: one worker is the fastest, and does all its steps; leave it out."
    assert found == [fault] * is_fault


def test_ranks_need_somebody_who_starts_them():
    pytest.importorskip("horovod")
    with pytest.raises(UserError, match="horovodrun --gloo -np 3"):
        session_of("horovod", RankSettings(workers=3))


class CountedModel(toy.ToyModel):
    """Counts how often its loss is built, which cannot be done more often than it `may_be`."""

    def __init__(self, may_be):
        super().__init__()
        self.may_be, self.built = may_be, 0

    def loss(self, views, batch, seed=None):
        self.built += 1
        if self.built > self.may_be:
            raise ValueError("this loss cannot be built")
        return super().loss(views, batch, seed)


@pytest.mark.parametrize("engine, workers, options", [(LocalEngine, 1, {}), (SimulatedEngine, 2, {"workers": 2})])
@pytest.mark.parametrize("may_be", [0, 1, 9])
def test_what_cannot_be_built_fails_in_a_rehearsal(engine, workers, options, may_be):
    """Also where it is only the row behind a warm start that cannot."""
    model = CountedModel(may_be)
    batches, warm_start = toy.make_batches(4), {"warm_start_updates": 2}
    made = build(engine, Bmuf(), batches, workers=workers, options=options, model=model, **warm_start)
    with contextlib.nullcontext() if may_be == 9 else pytest.raises(ValueError, match="cannot be built"):
        made.rehearse()
    assert model.built > 1 or may_be == 0


def test_a_block_is_built_once():
    model = CountedModel(may_be=9)
    engine = build(LocalEngine, Single(), toy.make_batches(4), model=model)
    blocks = engine.blocks()
    next(blocks)
    built = model.built
    next(blocks), next(blocks)
    assert model.built == built


class Job:
    """A run without a run directory."""

    def __init__(self, recipe):
        self.recipe = lambda: recipe

    @contextlib.contextmanager
    def leading(self):
        yield lambda drive, _: drive(lambda engine: engine)


@pytest.mark.parametrize(
    "engine, settings, kind, seconds",
    [
        ("local", LocalSettings(), LocalEngine, None),
        ("simulated", SimulationSettings(workers=3, jitter=0.0, step_seconds=7.0), SimulatedEngine, 7.0),
    ],
)
def test_a_session_leads_its_engine(engine, settings, kind, seconds):
    """With the workers and the costs of its flags."""
    recipe = build(lambda recipe: recipe, Async(), toy.make_batches(4))
    made = session_of(engine, settings).run(Job(recipe))
    assert type(made) is kind
    if seconds:
        assert len(made.crew) == 3
        assert next(made.blocks()).seconds > seconds
