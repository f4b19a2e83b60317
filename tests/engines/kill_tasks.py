"""The tasks of the cluster whose workers `kill_child` kills: processes that are forked once TensorFlow is there."""

import os
import sys
import time

from tfnmt import runtime  # before TensorFlow, whose start it makes quiet

# isort: split
import numpy as np
import tensorflow as tf

from tests import toy
from tests.engines.building import SCHEDULE, build
from tests.listeners import interfaces
from tfnmt.batch import END_ID, Batch
from tfnmt.cluster.chief import tasks_of
from tfnmt.cluster.tasks import serve
from tfnmt.engines.cluster import ClusterEngine
from tfnmt.engines.servers import UpdateSequence
from tfnmt.errors import LostError
from tfnmt.layout import Layout, Parameter
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import Async, Bmuf, DelayedAsync, Downpour, ModelAverage, SummedAsync, Sync
from tfnmt.strategies.asynchronous import FreeRunning

WORKERS, SERVERS = 2, 2
PLACES = 1 << 16
RATE = 2.0**-10
PHASES = ("pull", "steps", "push")
PUSHES_BETWEEN = 2  # kills
ADAM = {"optimizer": "adam", "schedule": SCHEDULE}
EXACT_SUM = {
    "learning_rate_law": "words",
    "law_tokens": 1,
    "schedule": ScheduleSettings(learning_rate=RATE, schedule="constant", warmup_updates=0),
}
"""Plain SGD of one rate for every token: the servers hold the sum of all gradients."""
EXACT_STEPS = {"schedule": EXACT_SUM["schedule"]}
"""Plain SGD of one rate for every step."""
ROWS = {
    "sync": (Sync(), ADAM),
    # A local optimizer's state that outlives a block is lost with its worker: here none does.
    "model_average": (ModelAverage(local_steps=3, local_slots="reset"), ADAM),
    "bmuf": (Bmuf(local_steps=2, block_momentum=0.5), {}),
    "downpour": (Downpour(push_every=2, pull_every=4), EXACT_STEPS),
    "async": (Async(), EXACT_SUM),
    "delayed_async": (DelayedAsync(delay=2, local_optimizer_batches=4), EXACT_SUM),
    "summed_async": (SummedAsync(summed_pushes=3), EXACT_SUM),
    "quorum": (Sync(quorum=1), EXACT_SUM),
}


def goes_on(row):
    """Whether a row's other workers go on while one is held."""
    return isinstance(row, FreeRunning) or getattr(row, "quorum", None) is not None


class CountingModel(toy.ToyModel):
    """The toy, beside as many numbers as there are batches: that of a batch has a gradient of one there, always.

    It is the sum over the batch that is one or, for rows that push sums of means, the mean. So with `EXACT_SUM` or
    `EXACT_STEPS` the parameters tell how often each batch has been taken. The last step of a block of worker 1
    lasts as long as there is a file for it, and leaves another.
    """

    parameters = (*toy.ToyModel.parameters, Parameter("counts", (PLACES,), lambda shape, seed: tf.zeros(shape)))

    def __init__(self, directory="", steps=1, of_mean=False):
        super().__init__()
        self._directory, self._steps, self._of_mean = directory, steps, of_mean

    def loss(self, views, batch, seed=None):
        place = batch.position[2]
        with tf.control_dependencies(self._wait(place)):
            sums = super().loss(views, batch, seed)
        count = sums.target_tokens if self._of_mean else 1
        return sums._replace(loss=sums.loss + count * views["counts"][place])

    def _wait(self, place):
        worker, step = place % WORKERS, place // WORKERS
        file = tf.strings.join([self._directory, "/hold-", tf.strings.as_string(worker)])

        def is_held(turns):
            return (step % self._steps == self._steps - 1) & (tf.size(tf.io.matching_files(file)) > 0)

        def tell(turns):
            with tf.control_dependencies([tf.io.write_file(f"{self._directory}/reached", "")]):
                return turns + 1

        return tf.while_loop(is_held, tell, [tf.constant(0)])


def make_batches(position, worker, workers):
    """A reader of batches of variable length, each made of its place."""
    first = worker if position is None else position[2] + workers

    @tf.autograph.experimental.do_not_convert  # whose files would outlive a process that is killed
    def make(place):
        def ids(side):
            seed = tf.cast(tf.stack([place, side]), tf.int32)
            random = tf.random.stateless_uniform([4, 8], seed, 4, toy.VOCABULARY_SIZE, tf.int32)
            lengths = tf.random.stateless_uniform([4, 1], seed, 1, 8, tf.int32)
            places = tf.range(8)[tf.newaxis]
            return tf.where(places < lengths, random, tf.where(places == lengths, END_ID, 0))

        return Batch(ids(0), ids(1), tf.stack([0, 0, place]))

    return tf.data.Dataset.range(first, PLACES, workers).map(make)


class InTurn:
    """The workers of a row with a barrier in one process: each does its block when it is its turn."""

    def __init__(self, recipe):
        self.servers = UpdateSequence(recipe, WORKERS)
        graph = self.servers.worker_graph()
        self._workers = [self.servers.new_worker(graph, n, self.servers.new_outbox()) for n in range(WORKERS)]

    def run(self, updates):
        reports = []
        for _ in range(updates):
            pushes = [worker.run(worker.next_block(), 1.0)[1] for worker in self._workers]
            reports += filter(None, map(self.servers.absorb, pushes))
        return reports


def serve_task(cluster):
    """Is one worker or parameter server."""
    runtime.prepare(threads=1)
    os._exit(serve(cluster))


def lead(cluster, connection, directory, names):
    """Is the chief: trains each row until worker 1 has been killed in all phases, and sends what came out.

    Messages: ("update",) behind each; ("ready", phase, whether others go on) before a kill, and waits for an answer;
    ("row", facts). Behind the kill it expects a word.
    """
    runtime.prepare(threads=1)
    with tasks_of(cluster):
        for name in names:
            connection.send(("row", {"row": name, **_train(cluster, connection, directory, *ROWS[name])}))
    os._exit(0)


def save(cluster, connection, when):
    """Is the chief: trains, and says "ready" at one moment, at which it waits for a word before it goes on.

    The moments: "connecting", before it speaks to tasks that are there; "between" two updates and "behind" the last,
    before it reads the whole state.
    """
    runtime.prepare(threads=1)
    options = {"workers": WORKERS, "model": CountingModel(), **ADAM}

    def reach(moment):
        if when == moment:
            connection.send("ready")
            connection.recv()

    try:
        with tasks_of(cluster):
            reach("connecting")
            row = ModelAverage(local_steps=2)  # whose workers have slots to save
            engine = build(ClusterEngine, row, make_batches, options={"cluster": cluster}, **options)
            for report in engine.blocks():
                if report.update == 2:
                    engine.state()
                    reach("between")
                    engine.state()
                if report.update == 4:
                    engine.stop()
            reach("behind")
            engine.state()
    except LostError as error:
        print("error:", error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    os._exit(0)


def go_on(cluster, connection, stall_seconds):
    """Is the chief of three workers, of whom two make an update; sends what comes of it.

    Once graphs are built, which takes long on a busy machine, the timeout for those who are silent is `stall_seconds`.

    Messages: (update, second, numbers of those whose payloads are in it) behind each, and ("counted", places of the
    batches that were not taken exactly once, second) at the end of the first training. In the second it says ("ready",)
    between two updates and, behind a word, ("saved", names of the vectors). Another word ends the first training, and
    one begins the second.
    """
    runtime.prepare(threads=1)

    def build_with(row, **options):
        return build(ClusterEngine, row, make_batches, options={"cluster": cluster}, workers=3, **options)

    def trained(engine):
        for report in engine.blocks():
            engine._stall_watch._timeout_seconds = stall_seconds
            connection.send((report.update, time.monotonic(), [push.worker for push in report.pushes]))
            yield report
            time.sleep(0.02)  # or the machine does nothing else

    try:
        with tasks_of(cluster):
            engine = build_with(Sync(quorum=2), model=CountingModel(), **EXACT_SUM)
            for _ in trained(engine):
                engine.state()
                if connection.poll():
                    connection.recv()
                    engine.stop()
            connection.send(("counted", wrongly_counted(engine.state()), time.monotonic()))
            connection.recv()
            engine = build_with(ModelAverage(local_steps=2, quorum=2), **ADAM)  # whose workers have slots to save
            for report in trained(engine):
                if report.update == 3:
                    connection.send(("ready",))
                    connection.recv()
                    connection.send(("saved", sorted(engine.state().vectors)))
    except LostError as error:
        print("error:", error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    os._exit(0)


def _train(cluster, connection, directory, row, options):
    steps = getattr(row, "local_steps", getattr(row, "push_every", getattr(row, "delay", 1)))
    model = CountingModel(directory, steps, of_mean=isinstance(row, Downpour))
    options = {"workers": WORKERS, "servers": SERVERS, "model": model, **options}
    engine = build(ClusterEngine, row, make_batches, options={"cluster": cluster}, **options)
    reports = _killed(engine, connection, is_free=goes_on(row))
    state = engine.state()
    facts = {
        "updates": [report.update for report in reports],
        "pushes": sum(len(report.pushes) for report in reports) + state.counters["arrived"],
        "arrived": state.counters["arrived"],
        "refused": [push.refused for report in reports for push in report.pushes if push.refused],
        "staleness": max(push.staleness for report in reports for push in report.pushes),
        "losses": [report.loss for report in reports],
        "interface_of_chief": interfaces()[int(cluster.chief.rpartition(":")[2])],
    }
    if goes_on(row):
        return facts | {"wrongly_counted": wrongly_counted(state)}
    undisturbed = build(InTurn, row, make_batches, **options)
    expected = undisturbed.run(len(reports))
    vectors = undisturbed.servers.state().vectors
    return facts | {
        "unequal": [name for name in vectors if (vectors[name] != state.vectors[name]).any()],
        "expected_losses": [report.loss for report in expected],
    }


def _killed(engine, connection, is_free):
    """The reports until worker 1 has been killed in all phases, and has pushed again behind each kill."""
    reports, phases, is_asked, pushes = [], list(PHASES), False, 0
    for report in engine.blocks():
        reports.append(report)
        connection.send(("update",))
        if is_asked and not connection.poll():
            continue
        if is_asked:
            connection.recv()
            is_asked, pushes = False, 0
        pushes += any(push.worker == 1 for push in report.pushes)
        if pushes < PUSHES_BETWEEN:
            continue
        while engine._down:  # behind a barrier, worker 0 does the blocks meanwhile
            time.sleep(0.01)
        if not phases:
            engine.stop()
            continue
        connection.send(("ready", phases.pop(0), is_free))
        connection.recv()
        is_asked = True
    return reports


def wrongly_counted(state):
    """The places of the batches that the servers have not taken exactly once, as far as the workers have come."""
    first = Layout(CountingModel.parameters).offsets[-2]
    counts = -state.vectors["parameters"][first : first + PLACES] / RATE
    if "received" in state.vectors:
        counts = counts + state.vectors["received"][first : first + PLACES]
    expected = np.zeros(PLACES)
    workers = state.counters["workers"]
    for number, worker in enumerate(workers):
        expected[number : worker["step"] * len(workers) : len(workers)] = 1
    return np.flatnonzero(np.abs(counts - expected) > 1e-6).tolist()
