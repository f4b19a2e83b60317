"""What the survey says is what training does."""

import dataclasses

import numpy as np
import pytest

from tests.data.text import generated_pairs, write_pair
from tfnmt.batch import PAD_ID
from tfnmt.data.pipeline import pair_batches
from tfnmt.data.settings import DataSettings
from tfnmt.data.survey import survey
from tfnmt.errors import UserError

BAD = [("", "de"), ("ba " * 60, "ab"), ("ba", "ab ab ab ab ab ab ab ab"), ("", "")]
SETTINGS = DataSettings(batch_positions=200, max_length=40, max_length_ratio=3.0, pool_pairs=100)


def test_counts_are_those_of_the_batches(tmp_path, vocabulary):
    files = [write_pair(tmp_path, "train", generated_pairs(250))]
    settings = DataSettings(batch_positions=200, pool_pairs=100)
    found = survey(files, vocabulary, vocabulary, settings)
    batches = list(pair_batches(files, vocabulary, vocabulary, settings).as_numpy_iterator())
    assert found.verdicts == {"kept": 250, "empty": 0, "too long": 0, "length ratio": 0}
    assert found.share_read == 1 and found.pairs == 250
    for side, ids in ((found.source, [b.source_ids for b in batches]), (found.target, [b.target_ids for b in batches])):
        assert side.sentences == 250
        assert side.tokens == sum((each != PAD_ID).sum() for each in ids)
        assert side.longest == max(each.shape[1] for each in ids)
        # Training varies the order slightly, so its batches differ slightly.
        assert side.positions == pytest.approx(sum(each.size for each in ids), rel=0.05)
    assert found.batches == found.batches_per_epoch == pytest.approx(len(batches), abs=2)
    assert 0 < found.padding_share < 0.2 and 0.8 < found.fill <= 1
    assert found.target_tokens_per_batch == found.target.tokens / found.batches


def test_what_is_left_out_is_counted_by_reason(tmp_path, vocabulary):
    files = [write_pair(tmp_path, "train", [*generated_pairs(20), *BAD])]
    found = survey(
        files, vocabulary, vocabulary, DataSettings(batch_positions=200, max_length=60, max_length_ratio=4.0)
    )
    assert found.verdicts == {"kept": 20, "empty": 2, "too long": 1, "length ratio": 1}
    assert "20 of all 24 pairs kept; left out of these: 2 empty, 1 too long, 1 length ratio" in found.describe()


def test_a_part_stands_for_the_whole(tmp_path, vocabulary):
    files = [write_pair(tmp_path, "train", generated_pairs(400))]
    part = survey(files, vocabulary, vocabulary, SETTINGS, limit=100)
    whole = survey(files, vocabulary, vocabulary, SETTINGS)
    assert part.pairs == whole.pairs == 400 and part.share_read == 0.25
    assert part.batches_per_epoch == pytest.approx(whole.batches_per_epoch, rel=0.2)
    assert "100 of the first 100 of 400 pairs kept; left out of these: none" in part.describe()


def test_of_pairs_that_are_still_to_come_nobody_knows_the_number(tmp_path, vocabulary):
    files = [write_pair(tmp_path, "train", generated_pairs(40))]
    found = survey(files, vocabulary, vocabulary, SETTINGS, more_to_come=True)
    assert found.pairs is None and found.batches_per_epoch == found.batches
    assert "40 of the first 40 pairs kept" in found.describe() and "batches of these on one worker" in found.describe()


def test_nothing_left_is_refused_with_the_counts(tmp_path, vocabulary):
    files = [write_pair(tmp_path, "train", BAD)]
    with pytest.raises(
        UserError, match=r"no pair is left.*0 kept, 2 empty, 1 too long, 1 length ratio.*--max_length=40"
    ):
        survey(files, vocabulary, vocabulary, SETTINGS)


def test_fewer_pairs_than_workers_are_refused(tmp_path, vocabulary):
    files = [write_pair(tmp_path, "train", generated_pairs(3))]
    with pytest.raises(UserError, match="too few for 4 workers"):
        survey(files, vocabulary, vocabulary, DataSettings(), shards=4)


def test_a_worker_whose_whole_shard_is_filtered_out_is_named(tmp_path, vocabulary):
    good, bad = generated_pairs(9), [("", "de")] * 9
    files = [write_pair(tmp_path, "train", [pair for both in zip(good, bad) for pair in both])]
    with pytest.raises(UserError) as refusal:
        survey(files, vocabulary, vocabulary, SETTINGS, shards=4)
    (fault,) = refusal.value.faults
    assert "leaves no pair to worker 1, which reads one line of every 4 from line 2 on (9 kept, 9 empty" in fault
    assert "use fewer workers or more text, or shuffle the lines" in fault
    assert survey(files, vocabulary, vocabulary, SETTINGS, shards=3).verdicts["kept"] == 9


def test_reading_goes_on_until_every_worker_has_a_pair(tmp_path, vocabulary):
    """What the first pairs are like says nothing about those behind them."""
    files = [write_pair(tmp_path, "train", [*BAD * 5, *generated_pairs(7), *BAD])]
    settings = dataclasses.replace(SETTINGS, pool_pairs=8)
    found = survey(files, vocabulary, vocabulary, settings, limit=10)
    assert (found.pairs, found.pairs_read, found.verdicts["kept"]) == (31, 26, 6)  # pools of 8, 2, 8 and 8
    assert "6 of the first 26 of 31 pairs kept; left out of these: 10 empty" in found.describe()
    assert survey(files, vocabulary, vocabulary, settings, shards=7, limit=10).pairs_read == 31
    with pytest.raises(UserError, match="7 pairs are too few for 8 workers"):
        survey(files, vocabulary, vocabulary, settings, shards=8, limit=10)


def test_unknown_pieces_are_counted(tmp_path, vocabulary):
    files = [write_pair(tmp_path, "train", [("✓ ba", "ba"), ("ba", "de")])]
    found = survey(files, vocabulary, vocabulary, DataSettings())
    assert (found.source.unknown, found.target.unknown) == (1, 0)
    assert np.isclose(
        found.padding_share,
        1 - (found.source.tokens + found.target.tokens) / (found.source.positions + found.target.positions),
    )
