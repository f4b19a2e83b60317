"""The run that the settings ask for, without training it."""

from types import SimpleNamespace

import pytest

from tfnmt.commands.command_line import CommandLine
from tfnmt.commands.train import _Job
from tfnmt.commands.train_settings import REQUESTS, Settings
from tfnmt.errors import UserError


def _job(*words, workers=2):
    """The job of these flags, and its session of so many workers."""
    session = SimpleNamespace(workers=workers, servers=1, describe=lambda: "ranks")
    session.faults, session.payloads, session.elements = lambda *_: [], lambda _: 1, lambda layout: layout.size
    return _Job(Settings(*CommandLine(REQUESTS).parse(["--run_directory=runs/a", *words])), session), session


def test_ranks_that_meet_anew_have_a_share_of_the_text_each(corpus):
    """More of them may be too many."""
    job, session = _job("--dry_run", f"--data={corpus}")
    with job.leading():
        pass
    session.workers = 10**6
    with pytest.raises(UserError, match="pairs are too few for 1000000 workers"), job.leading():
        pass


def test_rows_travel_of_a_source_table_that_nothing_shares(corpus):
    words = ["--dry_run", f"--data={corpus}", "--strategy=sync", "--sparse_embeddings"]
    shared, own = (_job(*words, f"--tied_embeddings={tied}")[0] for tied in ("all", "target"))
    with pytest.raises(UserError, match="all has no source table of its own"), shared.leading():
        pass
    with own.leading():
        pass


@pytest.mark.parametrize(
    "words, refused",
    [
        (["--strategy=bmuf"], True),
        (["--strategy=elastic", "--warm_start_updates=9"], True),  # behind the last update of the servers' Adam
        (["--strategy=elastic", "--warm_start_updates=10"], False),
        (["--strategy=delayed_async"], False),
    ],
)
def test_a_cool_down_of_nothing_is_refused(words, refused):
    job, _ = _job("--adam_cooldown_updates=9", *words)
    if not refused:
        return job.refuse_unsuitable()
    with pytest.raises(UserError) as refusal:
        job.refuse_unsuitable()
    (fault,) = refusal.value.faults
    assert fault.startswith(f"--adam_cooldown_updates=9 does nothing with {words[0]} and --warm_start_updates=")
