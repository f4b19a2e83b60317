"""Pairs through a pipe: the batches are those of a file with the same pairs, and no resume sees a pair twice."""

import itertools
import logging
import os
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.data.text import generated_pairs, write_table
from tfnmt.data import spool
from tfnmt.data.pipeline import training_batches
from tfnmt.data.settings import DataSettings
from tfnmt.data.spool import Spool, SpooledPairs
from tfnmt.errors import UserError

PAIRS = generated_pairs(230)
ROWS = [f"{source}\t{target}\n".encode() for source, target in PAIRS]
BLOCKS = {"batch_positions": 160, "shuffle_buffer": 20, "pool_pairs": 7}  # three pools of a block, in files of 20 lines
SECONDS = 60


@pytest.fixture(name="over")
def _over():
    """Set when the test is over."""
    return threading.Event()


@pytest.fixture(name="piped")
def _piped(tmp_path, monkeypatch, over):
    """Starts a spool whose pipe brings these rows and then ends; no thread of a closed one is left."""
    monkeypatch.setattr(spool, "_LOOK_SECONDS", 0.01)
    numbers, spools = itertools.count(), []

    def start(rows, *, checkpoints=(), workers=1, resumes=False):
        path = tmp_path / f"pipe{next(numbers)}"
        os.mkfifo(path)

        def write():
            try:
                with open(path, "wb", buffering=0) as pipe:
                    for row in rows:
                        pipe.write(row)
            except BrokenPipeError:
                pass

        threading.Thread(target=write, daemon=True).start()
        settings = DataSettings(train_pipe=str(path), producer_resumes=resumes, **BLOCKS)
        files = SpooledPairs.of(str(tmp_path), settings)
        spools.append(Spool(settings, files, workers, lambda: checkpoints))
        spools[-1].start()
        return spools[-1], files

    yield start
    over.set()
    for each in spools:
        each.close()
    _eventually(lambda: not any(thread.name.startswith("pipe") for thread in threading.enumerate()))


def _batches(files, vocabulary, *, until=1, seed=5, **place):
    settings = DataSettings(**BLOCKS)
    batches = training_batches(files, vocabulary, vocabulary, settings, seed=seed, **place).as_numpy_iterator()
    return list(itertools.takewhile(lambda batch: batch.position[0] < until, batches))


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for one, other in zip(batches, others):
        for field, other_field in zip(one, other):
            np.testing.assert_array_equal(field, other_field)


def _texts(batches, vocabulary):
    pairs = []
    for batch in batches:
        sides = [vocabulary.detokenize(tf.constant(ids)).numpy() for ids in (batch.source_ids, batch.target_ids)]
        pairs += [tuple(text.decode() for text in pair) for pair in zip(*sides)]
    return pairs


def _eventually(holds):
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _then_silence(rows, until):
    """Rows behind which the producer neither writes nor ends."""
    yield from rows
    until.wait()


def _numbers(files):
    return sorted(int(path.stem) for path in files.path(0).parent.glob("*.tsv"))


@pytest.mark.parametrize("shards", [1, 2])
def test_batches_are_those_of_a_file(tmp_path, vocabulary, piped, shards):
    """Each worker's, bit for bit, and behind the end those of the next epoch; together they have every pair once."""
    _, files = piped(ROWS, workers=shards)
    table = [write_table(tmp_path, "train", PAIRS)]
    found = []
    for shard in range(shards):
        place = {"shard": shard, "shards": shards}
        _assert_equal(_batches(files, vocabulary, until=2, **place), _batches(table, vocabulary, until=2, **place))
        found += _texts(_batches(files, vocabulary, **place), vocabulary)
    assert sorted(found) == sorted(PAIRS)


def test_other_pairs_make_other_batches(tmp_path, vocabulary, piped):
    """The negative control: two neighbours have changed places."""
    _, files = piped([ROWS[1], ROWS[0], *ROWS[2:]])
    one, other = (_batches(kind, vocabulary) for kind in (files, [write_table(tmp_path, "train", PAIRS)]))
    with pytest.raises(AssertionError):
        _assert_equal(one, other)


def test_a_resume_skips_the_pairs_that_were_taken(tmp_path, vocabulary, piped, over):
    """The producer begins anew; what no checkpoint needs is gone by then, but for the first file."""
    shards, place = 2, {"shard": 1, "shards": 2}
    whole = _batches([write_table(tmp_path, "train", PAIRS)], vocabulary, until=2, **place)
    used = next(number for number, batch in enumerate(whole) if batch.position.tolist()[:2] == [0, 7]) + 1
    checkpoints = [[whole[used - 1].position.tolist()] * shards] * 2
    # The first process takes six files, and dies.
    piped(_then_silence(ROWS[:121], over), workers=shards)
    files = SpooledPairs(str(tmp_path / "pairs"), 20)
    _eventually(lambda: _numbers(files) == [*range(6)])
    piped(ROWS, workers=shards, checkpoints=checkpoints)
    _assert_equal(
        _batches(files, vocabulary, until=1, position=checkpoints[0][1], **place),
        [batch for batch in whole[used:] if batch.position[0] == 0],
    )
    assert _numbers(files) == [0, *range(4, 13)]


def test_a_producer_that_goes_on_is_not_skipped(tmp_path, vocabulary, piped, over):
    """Its pairs come behind those that were taken, without a comparison."""
    piped(_then_silence(ROWS[:40], over))
    files = SpooledPairs(str(tmp_path / "pairs"), 20)
    _eventually(lambda: _numbers(files) == [0, 1])
    piped(ROWS[40:], resumes=True)
    assert sorted(_texts(_batches(files, vocabulary), vocabulary)) == sorted(PAIRS)


def test_another_producer_is_refused(piped):
    piped(ROWS)
    with pytest.raises(UserError, match=r"pipe1: its first 20 pairs are not those with which .* --producer_resumes"):
        piped(ROWS[1:])


def test_another_number_of_workers_is_refused(piped):
    with pytest.raises(UserError, match="2 workers have begun to read it, and 3 cannot go on"):
        piped(ROWS, checkpoints=[[None, None]], workers=3)


@pytest.mark.parametrize(
    "rows, fault",
    [
        ([], "it ended without a pair"),
        ([b"no tab\n"], "line 1: there is no tab"),
        ([*ROWS[:3], b"a\t\xff\n"], "line 4: byte 0xff is not UTF-8"),
        ([*ROWS[:3], b"a\tb\0\n"], "line 4: there is a NUL"),
        ([*ROWS[:3], b"a\tb"], "line 4: it has no end, and its producer may have died"),
    ],
)
def test_no_pairs_at_the_beginning_are_refused(piped, rows, fault):
    with pytest.raises(UserError, match=f"^--train_pipe=.*{fault}"):
        piped(rows)


def test_later_lines_that_are_no_pairs_are_left_out_and_told(vocabulary, piped, caplog):
    """So is the one in the middle of which a producer is killed. Byte order mark and carriage returns are dropped."""
    with caplog.at_level(logging.INFO):
        _, files = piped(
            [b"\xef\xbb\xbf" + ROWS[0], *ROWS[1:30], b"x\n", b"y\n", ROWS[30][:-1] + b"\r\n", ROWS[31][:-1]]
        )
        assert sorted(_texts(_batches(files, vocabulary), vocabulary)) == sorted(PAIRS[:31])
    assert "3 lines left out, as line 31: there is no tab" in caplog.text
    assert "has ended; training ends with the first update that reads beyond" in caplog.text


def test_an_early_end_is_taken_back_unless_training_has_come_near(tmp_path, vocabulary, piped):
    """Ctrl-C ends the producer too; where its last pairs were trained on already, no more may join their block."""
    first, files = piped(ROWS[:70])
    _eventually(lambda: not first.is_awaited and _numbers(files) == [*range(5)])
    piped(ROWS, checkpoints=[[None], [[0, 8, 0]]])  # in the third block
    assert sorted(_texts(_batches(files, vocabulary), vocabulary)) == sorted(PAIRS)
    for path in files.path(0).parent.glob("0*"):
        path.unlink()
    first, files = piped(ROWS[:70])
    _eventually(lambda: not first.is_awaited and _numbers(files) == [*range(5)])
    piped(ROWS, checkpoints=[[None], [[0, 9, 0]]])  # in the last one
    assert sorted(_texts(_batches(files, vocabulary), vocabulary)) == sorted(PAIRS[:70])


def test_taking_stops_when_enough_waits(vocabulary, piped, monkeypatch):
    monkeypatch.setattr(spool, "_FILES_AHEAD", 3)
    _, files = piped(ROWS)
    _eventually(lambda: len(_numbers(files)) == 3)
    time.sleep(0.2)
    assert len(_numbers(files)) == 3
    assert sorted(_texts(_batches(files, vocabulary), vocabulary)) == sorted(PAIRS)


def test_a_silent_pipe_is_named_when_training_waits(tmp_path, vocabulary, piped, over, monkeypatch, caplog):
    monkeypatch.setattr(spool, "_TOLD_SECONDS", 0.2)
    started, files = piped(_then_silence(ROWS[:40], over))
    silence = f"{tmp_path}/pipe0 has brought no pair for "
    _eventually(lambda: _numbers(files) == [0, 1])
    time.sleep(0.5)
    assert not started.is_awaited and silence not in caplog.text
    batches = training_batches(files, vocabulary, vocabulary, DataSettings(**BLOCKS), seed=5)
    reader = threading.Thread(target=lambda: list(batches.take(100)), daemon=True)
    reader.start()
    _eventually(lambda: started.is_awaited and silence in caplog.text)
    over.set()
    reader.join(SECONDS)
    assert not reader.is_alive() and not started.is_awaited


def test_a_machine_without_the_run_directory_says_so(tmp_path, vocabulary):
    with pytest.raises(tf.errors.NotFoundError, match="elsewhere/pairs/next_epoch"):
        _batches(SpooledPairs(str(tmp_path / "elsewhere" / "pairs"), 20), vocabulary)
