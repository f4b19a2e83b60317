"""Parts of a batch side by side: the same training, whatever their number."""

import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import DIFFERENT, EXACT, distance, local, run
from tfnmt.batch import Batch, part_of
from tfnmt.engines.streams import in_streams
from tfnmt.optimizers.optimizers import OptimizerSettings


@pytest.mark.parametrize("streams", [2, 3])
def test_streams_train_as_one_does(streams):
    batches, options = toy.make_batches(6), {"optimizer": OptimizerSettings(), "clip_norm": 0.1, "average_rate": 0.1}
    one = local(batches, **options)
    several = local(batches, streams=streams, servers=streams, **options)
    for whole, parts in zip(run(one, 6), run(several, 6)):
        assert (whole.target_tokens, whole.sentences) == (parts.target_tokens, parts.sentences)
        assert whole.loss == pytest.approx(parts.loss, rel=EXACT)
    assert distance(one, several) < EXACT
    assert distance(one, local(batches, **options)) > DIFFERENT  # it has moved


def test_one_stream_is_the_loss_itself():
    """Whose seed stays as it is, so that nothing else is dropped."""
    loss = toy.ToyModel().loss
    assert in_streams(loss, 1) == loss


def test_every_sentence_is_in_one_part():
    batch = toy.make_batches(1, sentences=5)[0]
    parts = [part_of(batch, number, 3) for number in range(3)]
    assert sorted(row for part in parts for row in part.target_ids.numpy().tolist()) == sorted(
        batch.target_ids.numpy().tolist()
    )
    assert [len(part.source_ids) for part in parts] == [2, 2, 1]


def test_each_part_drops_activations_of_its_own():
    views = toy.layout().unpack(toy.layout().initialize(1))
    single = toy.make_batches(1, sentences=1)[0]
    twins = Batch(*(tf.repeat(ids, 2, axis=0) for ids in single[:2]), single.position)
    loss, seed = toy.ToyModel(dropout=0.5).loss, tf.constant([1, 2])
    whole = in_streams(loss, 2)(views, twins, seed).loss
    assert abs(whole - 2 * loss(views, single, seed).loss) > DIFFERENT
    undropped = in_streams(loss, 2)(views, twins, None).loss
    assert float(undropped) == pytest.approx(2 * float(loss(views, single, None).loss), rel=1e-6)
