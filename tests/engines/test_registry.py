"""Where a row runs, and what is refused."""

import contextlib

import pytest

from tfnmt import runtime
from tfnmt.cluster.addresses import ClusterSettings
from tfnmt.cluster.ranks import RankSettings
from tfnmt.engines.registry import LocalSettings, Place, SimulationSettings, find_place, refuse_unsuitable
from tfnmt.errors import UserError
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import Async, Bmuf, RingAllreduce, Single, StrategySettings, Sync

ADAM = OptimizerSettings()


@pytest.mark.parametrize(
    "engine, settings, strategy, expected",
    [
        ("auto", ClusterSettings(), "single", ("local", 1, 1)),
        ("auto", ClusterSettings(workers=2), "single", ("cluster", 2, 1)),
        ("auto", ClusterSettings(workers=2, parameter_servers=3), "sync", ("cluster", 2, 3)),
        ("auto", ClusterSettings(), "sync", ("cluster", 1, 1)),
        ("cluster", ClusterSettings(), "single", ("cluster", 1, 1)),
        ("local", LocalSettings(), "bmuf", ("local", 1, 1)),
        ("simulated", SimulationSettings(workers=4, parameter_servers=2), "sync", ("simulated", 4, 2)),
    ],
)
def test_place_follows_from_the_flags(engine, settings, strategy, expected):
    assert find_place(engine, settings, strategy, environment={})[:3] == expected


@pytest.mark.parametrize(
    "workers, threads, streams",
    [(1, None, runtime.streams_on(runtime.usable_cores())), (runtime.usable_cores(), None, 1), (1, 2, 2), (3, 2, 2)],
)
def test_workers_of_one_machine_share_its_cores(workers, threads, streams):
    assert find_place("cluster", ClusterSettings(workers=workers), "sync", threads, {}).streams == streams


def test_of_other_machines_nobody_knows_the_cores():
    hosts = {"chief_hosts": ("a:1",), "worker_hosts": ("127.0.0.1:1",), "ps_hosts": ("127.0.0.1:2",)}
    assert find_place("cluster", ClusterSettings(**hosts), "sync", 2, {}).streams == 1


@pytest.mark.parametrize(
    "settings, row, fault",
    [
        (SimulationSettings(workers=2), Single(), "cannot use 2 workers"),
        (SimulationSettings(workers=2, network="ring"), Async(), "--network=ring: --strategy=it has no barrier"),
    ],
)
def test_rows_that_cannot_run_are_refused(settings, row, fault):
    place = find_place("simulated", settings, "it", environment={})
    with pytest.raises(UserError, match=fault):
        refuse_unsuitable(place, settings, StrategySettings(strategy="it"), row.row(place.workers, ADAM))


@pytest.mark.parametrize(
    "engine, row, fault",
    [
        ("horovod", Async(), "--strategy=it: has no barrier, and ranks wait for all; use --engine=cluster"),
        ("cluster", RingAllreduce(), "--strategy=it: has no parameter servers; use --engine=horovod"),
    ],
)
def test_rows_are_refused_with_the_engine_that_runs_them(engine, row, fault):
    place = Place(engine, 2, 1)
    with pytest.raises(UserError, match=fault):
        refuse_unsuitable(place, ClusterSettings(), StrategySettings(strategy="it"), row.row(2, ADAM))


@pytest.mark.parametrize(
    "engine, row", [("horovod", RingAllreduce()), ("horovod", Bmuf()), ("cluster", Async()), ("cluster", Sync())]
)
def test_rows_run_on_their_engines(engine, row):
    """The negative control."""
    refuse_unsuitable(Place(engine, 2, 1), ClusterSettings(), StrategySettings(strategy="it"), row.row(2, ADAM))


def test_stragglers_are_workers():
    assert not SimulationSettings(workers=4, stragglers=("3:2",)).faults()
    (fault,) = SimulationSettings(workers=4, stragglers=("4:2",)).faults()
    assert fault == "--stragglers=4:2: --workers=4 are numbered from 0 to 3."


@pytest.mark.parametrize(
    "row, shared, fault",
    [
        (Bmuf(), {}, "--reduction_pieces=2: --strategy=it does not push at every step"),
        (RingAllreduce(), {"global_batch_tokens": 99}, "--reduction_pieces=2: --global_batch_tokens adds up"),
        (RingAllreduce(), {}, None),
    ],
)
def test_pieces_need_a_gradient_that_is_pushed_alone(row, shared, fault):
    settings, shared = RankSettings(reduction_pieces=2), StrategySettings(strategy="it", **shared)
    with pytest.raises(UserError, match=fault) if fault else contextlib.nullcontext():
        refuse_unsuitable(Place("horovod", 2, 1), settings, shared, row.row(2, ADAM))


@pytest.mark.parametrize(
    "compression, slots, fault",
    [("float16", "average", "--compression=float16: squares"), ("float16", "keep", None), ("none", "average", None)],
)
def test_averaged_slots_do_not_fit_in_16_bits(compression, slots, fault):
    settings, shared = RankSettings(compression=compression), StrategySettings(strategy="it")
    with pytest.raises(UserError, match=fault) if fault else contextlib.nullcontext():
        refuse_unsuitable(Place("horovod", 2, 1), settings, shared, Bmuf(local_slots=slots).row(2, ADAM))


def test_ranks_need_somebody_who_starts_them():
    pytest.importorskip("horovod")
    with pytest.raises(UserError, match="horovodrun --gloo -np 3"):
        find_place("horovod", RankSettings(workers=3), "sync", environment={})


@pytest.mark.parametrize(
    "settings, row",
    [
        (SimulationSettings(workers=1), Single()),
        (SimulationSettings(workers=2, network="ring"), Sync()),
        (SimulationSettings(workers=2), Async()),
    ],
)
def test_rows_that_can_run_are_not(settings, row):
    """The negative control."""
    place = find_place("simulated", settings, "it", environment={})
    refuse_unsuitable(place, settings, StrategySettings(strategy="it"), row.row(place.workers, ADAM))
