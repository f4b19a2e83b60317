"""What workers do to their own replicas between pulls, against equations in NumPy and their wrong readings."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import CONSTANT, DIFFERENT, EXACT, distance, gradient_of, local, parameters, run, simulated
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import Async, DelayedAsync, Downpour, ModelAverage, SummedAsync, Sync

BATCHES = toy.make_batches(32)
CLIP = 0.05
RATE, EPSILON = CONSTANT.learning_rate, 1e-3


def clipped(mean, largest=CLIP):
    return mean * min(1.0, largest / np.linalg.norm(mean))


def start():
    return toy.layout().initialize(1, tf.float64).numpy()


class Adam:
    """Adam with other decays behind the first update, where `later` has them."""

    def __init__(self, decays, later=None):
        self._decays, self._later = decays, later or decays
        self._m = self._v = self._t = 0

    def __call__(self, theta, gradient, rate):
        self._t += 1
        one, two = self._decays if self._t == 1 else self._later
        self._m = one * self._m + (1 - one) * gradient
        self._v = two * self._v + (1 - two) * gradient**2
        return theta - rate * (self._m / (1 - one**self._t)) / (np.sqrt(self._v / (1 - two**self._t)) + EPSILON)


class TestDelayedAsync:
    SERVER, COOLED, LOCAL = (0.8, 0.9), (0.5, 0.6), (0.6, 0.7)

    def by_hand(
        self, local=LOCAL, local_cooled=None, local_clip=CLIP, local_rate=RATE, server_clip=CLIP, blocks=(3, 3, 3)
    ):
        """Blocks of three steps: the servers move by the sum, whose gradients the replica moves in between."""
        theta, server, own = start(), Adam(self.SERVER, self.COOLED), Adam(local, local_cooled)
        batches = iter(BATCHES)
        for steps in blocks:
            replica, gathered, tokens = theta, 0.0, 0.0
            for batch in itertools.islice(batches, steps):
                gradient, count = gradient_of(replica, batch)
                gathered, tokens = gathered + gradient, tokens + count
                replica = own(replica, clipped(gradient / count, local_clip), local_rate)
            theta = server(theta, clipped(gathered / tokens, server_clip), steps * RATE)
        return theta

    def test_local_optimizer_has_decays_a_rate_and_a_clipping_of_its_own(self):
        """Its decays never cool down; its steps are of one batch, so that the linear law is for the servers alone."""
        reports, found = self.trained(simulated, updates=3, workers=1)
        assert [report.learning_rate for report in reports] == pytest.approx([3 * RATE] * 3)
        np.testing.assert_allclose(found, self.by_hand(), atol=EXACT)
        for wrong in (
            {"local": self.SERVER},
            {"local_cooled": self.COOLED},
            {"local_clip": np.inf},
            {"local_rate": 3 * RATE},
            {"server_clip": np.inf},
        ):
            assert np.abs(found - self.by_hand(**wrong)).max() > DIFFERENT, wrong

    @pytest.mark.parametrize("engine, options", [(simulated, {"workers": 1}), (local, {})], ids=["simulated", "local"])
    def test_delay_grows_by_the_ramp(self, engine, options):
        """Of the first half of five batches τ is 1, of the second it is 2; rates go by the batches that there are."""
        reports, found = self.trained(engine, updates=6, delay_ramp_batches=5, **options)
        blocks = [1, 1, 1, 2, 3, 3]
        assert [report.sentences for report in reports] == [4 * steps for steps in blocks]
        assert [report.learning_rate for report in reports] == pytest.approx([steps * RATE for steps in blocks])
        np.testing.assert_allclose(found, self.by_hand(blocks=blocks), atol=EXACT)
        for wrong in ([1, 1, 2, 2, 2, 3], [1, 1, 1, 3, 3, 2]):
            assert np.abs(found - self.by_hand(blocks=wrong)).max() > DIFFERENT, wrong

    def trained(self, engine, updates, delay_ramp_batches=0, **options):
        """The reports of a row with all constants of its own, and the parameters that it comes to."""
        optimizer = OptimizerSettings(
            adam_beta1=self.SERVER[0],
            adam_beta2=self.SERVER[1],
            adam_epsilon=EPSILON,
            adam_cooldown_updates=1,
            adam_cooldown_beta1=self.COOLED[0],
            adam_cooldown_beta2=self.COOLED[1],
        )
        decays = {"local_adam_beta1": self.LOCAL[0], "local_adam_beta2": self.LOCAL[1]}
        row = DelayedAsync(delay=3, delay_ramp_batches=delay_ramp_batches, **decays)
        law = {"learning_rate_law": "linear", "clip_norm": CLIP}
        trained = engine(row=row, batches=BATCHES, optimizer=optimizer, **law, **options)
        return run(trained, updates), parameters(trained)


class TestDownpour:
    @staticmethod
    def by_hand(local_rate):
        """Two pushes of two steps each behind one pull: the servers move by the sum of the steps' means."""
        theta = replica = start()
        for first in (0, 2):
            gathered = 0.0
            for batch in BATCHES[first : first + 2]:
                gradient, count = gradient_of(replica, batch)
                gathered = gathered + gradient / count
                replica = replica - local_rate * RATE * gradient / count
            theta = theta - RATE * gathered
        return theta

    def test_local_rate_multiplies_the_rate_of_the_replica_alone(self):
        row = Downpour(push_every=2, pull_every=4, local_rate=0.5)
        engine = simulated(row, BATCHES, workers=1)
        run(engine, 2)
        np.testing.assert_allclose(parameters(engine), self.by_hand(0.5), atol=EXACT)
        for wrong in (0.0, 1.0):
            assert np.abs(parameters(engine) - self.by_hand(wrong)).max() > DIFFERENT


class TestModelAverage:
    @staticmethod
    def by_hand(step_clip=CLIP, delta_clip=np.inf):
        """One block of three steps of SGD with a rate of 1 on each of two workers."""
        deltas = []
        for worker in range(2):
            replica = start()
            for batch in BATCHES[worker:6:2]:
                gradient, count = gradient_of(replica, batch)
                replica = replica - clipped(gradient / count, step_clip)
            deltas.append(replica - start())
        return start() + clipped(np.mean(deltas, axis=0), delta_clip)

    def test_steps_are_clipped_and_their_delta_is_not(self):
        schedule = ScheduleSettings(learning_rate=1.0, schedule="constant", warmup_updates=0)
        engine = simulated(ModelAverage(local_steps=3), BATCHES, workers=2, clip_norm=CLIP, schedule=schedule)
        (report,) = run(engine, 1)
        assert report.gradient_norm > CLIP
        np.testing.assert_allclose(parameters(engine), self.by_hand(), atol=EXACT)
        for wrong in ({"step_clip": np.inf}, {"delta_clip": CLIP}):
            assert np.abs(parameters(engine) - self.by_hand(**wrong)).max() > DIFFERENT, wrong


class TestLaws:
    """Of rows whose pushes are of several steps, or whose updates are of several pushes."""

    @pytest.mark.parametrize(
        "row, law, factor",
        [
            (DelayedAsync(delay=4), "sqrt", 2.0),
            (DelayedAsync(delay=4), "linear", 4.0),
            (SummedAsync(summed_pushes=2), "linear", 2.0),
            (Async(), "linear", 1.0),
        ],
    )
    def test_scale_the_update_by_its_batches(self, row, law, factor):
        engine = simulated(row, BATCHES, workers=2, learning_rate_law=law)
        assert [report.learning_rate for report in run(engine, 2)] == pytest.approx([factor * RATE] * 2)

    def test_of_words_scales_it_by_the_target_tokens_of_all_its_steps(self):
        engine = simulated(DelayedAsync(delay=3), BATCHES, workers=2, learning_rate_law="words", law_tokens=7)
        for report in run(engine, 2):
            assert report.sentences == 3 * 4
            assert report.learning_rate == pytest.approx(RATE * report.target_tokens / 7)

    @pytest.mark.parametrize("workers, steps", [(1, 1), (2, 3)])
    def test_of_words_scales_local_updates_by_the_target_tokens_of_a_step_of_all(self, workers, steps):
        """The mean over the steps of the averaging, in the report."""
        row = ModelAverage(local_steps=steps)
        engine = simulated(row, BATCHES, workers=workers, learning_rate_law="words", law_tokens=7)
        for report in run(engine, 2):
            assert report.learning_rate == pytest.approx(RATE * report.target_tokens / steps / 7)


class TestPlateau:
    @pytest.mark.parametrize("row, workers", [(Sync(), 2), (ModelAverage(local_steps=2), 2), (DelayedAsync(), 1)])
    def test_factor_reaches_every_rate(self, row, workers):
        """Of the servers' updates, of the workers' own, and of both: as if the rate had been so from the beginning."""
        plateau = ScheduleSettings(learning_rate=4 * RATE, schedule="plateau", warmup_updates=0)
        scaled, plain = (
            simulated(row, BATCHES, workers=workers, schedule=schedule, optimizer="momentum")
            for schedule in (plateau, CONSTANT)
        )
        scaled.scale_learning_rate(0.5)
        scaled.scale_learning_rate(0.5)
        reports = run(scaled, 3)
        run(plain, 3)
        assert [report.learning_rate for report in reports] == pytest.approx([RATE] * 3)
        assert distance(scaled, plain) < EXACT
        assert scaled.state().counters["plateau_scale"] == 0.25
