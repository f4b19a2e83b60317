"""Which ranks share a copy of what, and which own the same part of it."""

import doctest

import pytest

from tfnmt.cluster import grid as module
from tfnmt.cluster.grid import Grid
from tfnmt.cluster.ranks import RankSettings


def test_examples():
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_every_rank_is_in_one_group_and_owns_one_part():
    grid = Grid(size=12, together=3)
    for members in (grid.group, grid.owners):
        of_ranks = [members(rank) for rank in range(12)]
        assert all(rank in found for rank, found in enumerate(of_ranks))
        assert sum(map(len, set(of_ranks))) == 12
    assert all(len(set(grid.group(rank)) & set(grid.owners(rank))) == 1 for rank in range(12))
    assert set(grid.parts()) == {members(rank) for members in (grid.group, grid.owners) for rank in range(12)}


@pytest.mark.parametrize("together", [1, 3, 4, 5])
def test_single_ranks_and_all_of_them_are_no_parts(together):
    """Nor are groups that some ranks would be missing from: they are refused once all have met."""
    assert not list(Grid(size=4, together=together).parts())


@pytest.mark.parametrize(
    "settings, together",
    [({}, 1), ({"vocabulary_parallel": True}, 4), ({"vocabulary_parallel": True, "model_parallel": 2}, 2)],
)
def test_as_many_share_as_flags_say(settings, together):
    assert RankSettings(**settings).grid(4) == Grid(4, together)
