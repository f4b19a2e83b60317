"""What a block's graph orders: a pull behind a step, and a look at the clock, come behind the step's arithmetic."""

import pytest
import tensorflow as tf

from graphs.actions import PULL, Meeting, Steps
from graphs.encodings import DENSE
from graphs.work import NO_SUMS
from tests import toy
from tests.engines.building import build
from tfnmt.engines.server_graph import Arrived, Numbers
from tfnmt.engines.servers import UpdateSequence
from tfnmt.strategies import Downpour, ModelAverage, Single
from tfnmt.strategies.elastic import Elastic

BATCHES = toy.make_batches(4)


def traced(row, block):
    """The graph of a block, and the handles of the servers' parameters in it."""
    servers = build(UpdateSequence, row, BATCHES, options={"workers": 1})
    graph, outbox = servers.worker_graph(), servers.new_outbox()
    replica, batches = graph.new_replica(0), iter(toy.dataset(BATCHES)(None))
    whole, number = tf.constant(0, tf.int64), tf.constant(0.0, tf.float64)
    sums, fragment = tf.zeros([len(NO_SUMS)], tf.float64), tf.constant(0)
    arguments = (replica, outbox, batches, whole, whole, number, number, sums, fragment, whole)
    function = graph.function(block).get_concrete_function(*arguments)
    parameters = servers.server.shards[0].parameters.handle
    return function.graph, [inner for outer, inner in function.graph.captures if outer is parameters]


def kinds_before(operation):
    """The types of all operations that must have ended before this one begins."""
    return {other.type for other in all_before(operation)}


def all_before(operation):
    found, coming = set(), [operation]
    while coming:
        one = coming.pop()
        for other in [*one.control_inputs, *(tensor.op for tensor in one.inputs)]:
            if other not in found:
                found.add(other)
                coming.append(other)
    return found


def test_the_reader_is_not_asked_before_its_step_begins():
    """Where a function of the step is called several times, which asks as soon as it has its inputs."""
    servers = build(UpdateSequence, Downpour(), BATCHES, options={"workers": 1})
    graph, batches = servers.worker_graph(), iter(toy.dataset(BATCHES)(None))
    parameters, number = servers.server.shards[0].parameters.read_value(), tf.constant(0, tf.int64)
    function = graph._traced_gradient.get_concrete_function(parameters, batches, number, number).graph
    (reader,) = [operation for operation in function.get_operations() if operation.type == "IteratorGetNext"]
    assert function.inputs[-1].op in all_before(reader)


@pytest.mark.parametrize(
    "row, gradients", [(Elastic(local_steps=1), True), (Elastic(local_steps=1), False), (Downpour(), True)]
)
def test_a_pull_behind_a_step_waits_for_its_arithmetic(row, gradients):
    """The negative control: a pull before the step does not."""
    steps = Steps(1, True)
    _, (parameters,) = traced(row, (steps, Meeting(PULL)) if gradients else (Meeting(PULL), steps))
    (read,) = [operation for operation in parameters.consumers() if operation.type == "ReadVariableOp"]
    assert ("MatMul" in kinds_before(read)) is gradients


def test_a_pull_reads_the_version_before_the_parameters():
    """Or a worker that pulls while others push would have a version whose parameters it has not."""
    _, (parameters,) = traced(Downpour(), (Meeting(PULL), Steps(1, True)))
    (read,) = [operation for operation in parameters.consumers() if operation.type == "ReadVariableOp"]
    assert "ReadVariableOp" in kinds_before(read)


def test_a_wait_for_data_begins_before_the_reader_is_asked():
    graph, _ = traced(Downpour(), (Steps(1, True),))
    (asked,) = [operation for operation in graph.get_operations() if operation.type == "IteratorGetNext"]
    looks = [operation for operation in graph.get_operations() if operation.type == "Timestamp"]
    assert len(looks) == 4  # two of them of the whole step
    assert "Timestamp" in kinds_before(asked)
    assert any("IteratorGetNext" in kinds_before(look) for look in looks)


def test_the_version_counts_behind_the_update():
    """Nothing else would hold it back: it is another variable."""
    servers = build(UpdateSequence, Single(), BATCHES, options={"workers": 1})
    one = tf.constant(1.0, tf.float64)
    arrived, numbers = Arrived(servers.new_outbox(), one, one), Numbers(*[one] * len(Numbers._fields))
    (graphs,) = servers._graphs
    graph = graphs.update_from.get_concrete_function(DENSE, arrived, numbers).graph
    (choice,) = [operation for operation in graph.get_operations() if operation.type in ("If", "StatelessIf")]
    branch = graph._get_function(choice.get_attr("then_branch").name).graph
    counts = [operation for operation in branch.get_operations() if operation.type == "AssignAddVariableOp"]
    assert len(counts) == 3  # updates, steps and the version
    assert all("ResourceApplyGradientDescent" in kinds_before(count) for count in counts)


def test_a_limit_of_time_counts_the_whole_step():
    """In the loop of a block, the next look at the clock comes behind the replica's update."""
    graph, _ = traced(ModelAverage(local_steps=3, sync_every_seconds=1.0), (Meeting(PULL), Steps(3, True)))
    loops = [operation for operation in graph.get_operations() if operation.type in ("While", "StatelessWhile")]
    bodies = [graph._get_function(loop.get_attr("body").name).graph for loop in loops]
    looks = [each for body in bodies for each in body.get_operations() if each.type == "Timestamp"]
    assert any({"MatMul", "If"} <= kinds_before(look) for look in looks)
