"""Deltas that count by what they were learnt from, on the simulated engine, against the mean in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from graphs.work import NO_SUMS
from tests import toy
from tests.engines.building import DIFFERENT, EXACT, distance, parameters, run, simulated
from tfnmt.batch import END_ID, is_token
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.strategies import Bmuf, ModelAverage
from tfnmt.strategies.averaging import token_weight

BATCHES = toy.make_batches(48)
UNEQUAL_SPEED = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("1:2",))


def renamed(batch, by):
    """The batch with as many tokens, all of which but the ends are others."""

    def sides(ids):
        return tf.where(is_token(ids) & (ids != END_ID), 4 + (ids - 4 + by) % (toy.VOCABULARY_SIZE - 4), ids)

    return batch._replace(source_ids=sides(batch.source_ids), target_ids=sides(batch.target_ids))


def noting(engine):
    """The deltas of the newest pushes, with the sums of their steps, in a list that is filled."""
    found, absorb = [], engine._servers.absorb

    def noted(push, *how):
        worker = engine.crew[push.worker].replica
        slots = {name: slot.numpy() for name, slot in worker.slots.items()}
        delta = worker.vectors["replica"].numpy() - worker.vectors["pulled"].numpy()
        found.append((delta, slots, push.work.sums))
        return absorb(push, *how)

    engine._servers.absorb = noted
    return found


@pytest.mark.parametrize("row", [ModelAverage, Bmuf])
def test_payloads_of_as_many_tokens_and_steps_count_alike_bit_for_bit(row):
    """In single precision, with three workers, whose weights are no powers of two; and they do not learn the same."""
    batches = [renamed(batch, by) for batch in BATCHES[:12] for by in range(3)]
    options = {"workers": 3, "servers": 2, "optimizer": "adam", "dtype": tf.float32}
    plain, weighted = (
        simulated(row(local_steps=2, payload_weights=weights), batches, **options) for weights in ("equal", "tokens")
    )
    found = noting(weighted)
    run(plain, 3), run(weighted, 3)
    assert len({token_weight(sums) for *_, sums in found[:3]}) == 1
    assert np.abs(found[0][0] - found[1][0]).max() > DIFFERENT
    for name, vector in plain.state().vectors.items():
        np.testing.assert_array_equal(weighted.state().vectors[name], vector, err_msg=name)


@pytest.mark.parametrize("local_slots", ["keep", "average"])
def test_workers_of_unequal_speed_count_by_their_tokens_and_steps(local_slots):
    """Σ w Δ / Σ w with w = T T / k; slots that are averaged count as the deltas do, and their age is the mean."""
    flags = {"local_steps": 9, "sync_every_seconds": 3.5, "local_slots": local_slots}
    row = ModelAverage(payload_weights="tokens", **flags)
    options = {"workers": 2, "servers": 2, "optimizer": "adam", "costs": UNEQUAL_SPEED}
    engine = simulated(row, BATCHES, **options)
    found, theta = noting(engine), parameters(engine)
    for _, _ in zip(range(3), engine.blocks()):
        weights = [sums.target_tokens**2 / sums.steps for *_, sums in found]
        steps = [sums.steps for *_, sums in found]
        assert steps == [4, 2]
        theta = theta + np.average([delta for delta, *_ in found], axis=0, weights=weights)
        np.testing.assert_allclose(parameters(engine), theta, atol=EXACT)
        if local_slots == "average":
            for name in ("m", "v"):
                mean = np.average([slots[name] for _, slots, _ in found], axis=0, weights=weights)
                np.testing.assert_allclose(engine.state().vectors[f"local_{name}"], mean, atol=EXACT)
        found.clear()
    assert local_slots == "keep" or engine.state().counters["local_updates"] == 9
    plain = simulated(ModelAverage(**flags), BATCHES, **options)
    run(plain, 3)
    assert distance(engine, plain) > DIFFERENT


def test_what_was_refused_is_not_counted():
    sums = NO_SUMS._replace(target_tokens=300.0, steps=4.0, refused=1.0)
    assert token_weight(sums) == 30000.0
    assert token_weight(NO_SUMS._replace(steps=4.0, refused=4.0)) == token_weight(NO_SUMS) == 0.0


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_worker_that_has_learnt_nothing_counts_for_nothing(is_empty):
    """Its only step was refused, or had no token; though the first one's weight is what all are measured by."""
    first, batches = BATCHES[0], list(BATCHES)
    if is_empty:
        batches[0] = first._replace(target_ids=tf.zeros_like(first.target_ids))
    row = ModelAverage(local_steps=1, payload_weights="tokens")
    engine = simulated(row, batches, workers=2, model=toy.PoisonedModel(place=-1 if is_empty else 0))
    found, theta = noting(engine), parameters(engine)
    run(engine, 1)
    (nothing, _, _), (delta, _, _) = found
    assert not nothing.any()
    np.testing.assert_allclose(parameters(engine), theta + delta, atol=EXACT)
