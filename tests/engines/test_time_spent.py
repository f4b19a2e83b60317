"""What workers spend their time on: in numbers under the virtual clock, and which is which where time is real."""

import multiprocessing
import operator
import time

import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import local, parts_and_whole, run, simulated
from tests.engines.hold_child import train
from tests.engines.wire import Wire
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.layout import Layout
from tfnmt.strategies import Async, RingAllreduce, SummedAsync, Sync

BATCHES = toy.make_batches(48)
VECTOR_BYTES = 8 * Layout(toy.ToyModel.parameters).size
HELD_SECONDS = 0.3
SECONDS = 300  # a hang must not hold up the suite
FEW_BYTES = 1 << 20  # of the eight million of a vector, and more than everything else that is said


def costs(**changed):
    """A step of a second, of ten for worker 1; a second for a vector on a link, three for an update."""
    return CostSettings(
        jitter=0.0,
        seconds_per_token=0.0,
        step_seconds=1.0,
        network_latency_seconds=0.0,
        network_bytes_per_second=VECTOR_BYTES,
        server_seconds_per_byte=3 / VECTOR_BYTES,
        **{"stragglers": ("1:10",), **changed},
    )


def spent(pushes):
    """(compute, pull, push, waiting for others, servers, all) of each push in seconds."""
    seconds = operator.attrgetter(
        "compute_seconds", "pull_seconds", "push_seconds", "wait_seconds", "server_seconds", "seconds"
    )
    return list(map(seconds, pushes))


class TestVirtualSeconds:
    @pytest.mark.parametrize(
        "row, expected",
        [
            # Both pull at once, over the server's link; the pushes do not meet there.
            (Sync(), [(1, 2, 1, 9, 3, 16), (10, 2, 1, 0, 3, 16)]),
            (RingAllreduce(), [(1, 0, 1, 9, 3, 14), (10, 0, 1, 0, 3, 14)]),
        ],
    )
    def test_of_a_round(self, row, expected):
        reports = run(simulated(row, BATCHES, workers=2, costs=costs()), 4)
        assert [spent(report.pushes) for report in reports[1:]] == [pytest.approx(expected)] * 3

    def test_of_workers_that_wait_for_nobody(self):
        """A worker's push before last is absorbed before it goes on, behind the other's where that came first."""
        engine = simulated(Async(), BATCHES, workers=2, costs=costs(stragglers=()))
        pushes = [push for report in run(engine, 8) for push in report.pushes][2:]
        assert {push.wait_seconds for push in pushes} == {0}
        assert all(push.compute_seconds == 1 for push in pushes)
        assert [push.server_seconds for push in pushes[3:]] == pytest.approx([2 * 3 - 1 - 1 - 1] * 3)
        assert [sum(each[:-1]) for each in spent(pushes)] == pytest.approx([push.seconds for push in pushes])

    def test_of_a_slack_that_is_used_up(self):
        """The fast worker waits for the slow one's push, and then for its update."""
        engine = simulated(Async(slack=1), BATCHES, workers=2, costs=costs())
        pushes = [push for report in run(engine, 8) for push in report.pushes if push.worker == 0]
        assert all(push.wait_seconds > 0 and push.server_seconds > 3 for push in pushes[1:])
        assert [sum(each[:-1]) for each in spent(pushes[1:])] == pytest.approx([push.seconds for push in pushes[1:]])


def late(tensor):
    """The same tensor, a while later, by an operation that nothing but its result puts in order."""

    def wait(array):
        time.sleep(HELD_SECONDS)
        return array

    return tf.ensure_shape(tf.numpy_function(wait, [tensor], tensor.dtype, stateful=False), tensor.shape)


class SlowModel(toy.ToyModel):
    """Its gradient comes late."""

    def loss(self, views, batch, seed=None):
        @tf.custom_gradient
        def slow(loss):  # whose gradient would be computed beforehand, once, if it were of a constant
            return tf.identity(loss), lambda upstream: upstream * late(loss) / loss

        sums = super().loss(views, batch, seed)
        return sums._replace(loss=slow(sums.loss))


def slow_reader(position, *workers):
    return toy.dataset(BATCHES)(position, *workers).map(lambda batch: batch._replace(position=late(batch.position)))


class TestRealSeconds:
    """Lower limits alone: a busy machine makes everything longer."""

    @staticmethod
    def pushes(**options):
        reports = run(local(options.pop("batches", BATCHES), **options), 3)
        least, parts, whole = parts_and_whole(reports)
        assert least >= 0 and 0 < parts <= whole
        return [push for report in reports for push in report.pushes]

    @pytest.mark.parametrize("more", [{}, {"row": SummedAsync(summed_pushes=2)}, {"global_batch_tokens": 60}])
    def test_parts_are_no_more_than_the_whole(self, more):
        assert min(push.server_seconds for push in self.pushes(**more)) > 0

    @pytest.mark.parametrize("more", [{}, {"global_batch_tokens": 1}])
    def test_slow_gradient_is_neither_the_reader_nor_a_push(self, more):
        """Not even where it is computed in a loop, behind whose last batch nothing more is read."""
        for push in self.pushes(model=SlowModel(), **more):
            assert push.compute_seconds >= HELD_SECONDS

    def test_slow_reader_is(self):
        for push in self.pushes(batches=slow_reader):
            assert push.data_wait_seconds >= HELD_SECONDS / 2  # the next batch is read while this one is used


def answer(connection):
    assert connection.poll(SECONDS), "the child is silent"
    return connection.recv()


def held_push(connection, wire, child):
    """The push of the next update, in the middle of which the wire stands still for a while."""
    hold = wire.hold(child.pid, FEW_BYTES, cuts=False)
    connection.send("go on")
    assert hold.reached.wait(SECONDS), "nothing was held"
    time.sleep(HELD_SECONDS)
    hold.released.set()
    return answer(connection)


@pytest.fixture(name="held", scope="module")
def _held():
    context = multiprocessing.get_context("spawn")
    connection, theirs = context.Pipe()
    child = context.Process(target=train, args=(theirs, 4))
    child.start()
    try:
        worker, server = wires = [Wire(address) for address in answer(connection)]
        connection.send([wire.address for wire in wires])
        answer(connection)  # of the first update, which builds the graph
        connection.send("go on")
        answer(connection)
        return {name: held_push(connection, wire, child) for name, wire in (("pull", server), ("push", worker))}
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("transfer", ["pull", "push"])
def test_a_held_transfer_counts_as_what_it_is(held, transfer):
    """And not twice: all parts together are no more than the whole. A server asks a worker for its payload."""
    push = held[transfer]
    assert push[f"{transfer}_seconds"] >= HELD_SECONDS
    parts = [push[name] for name in push if name.endswith("_seconds")]
    assert min(parts) >= 0
    # `seconds` end when the push is absorbed, its parts when it is made. Counted twice, it would be all of this more.
    assert sum(parts) - push["seconds"] < HELD_SECONDS / 4
