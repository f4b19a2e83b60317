"""Ranks in rows and columns: groups that have a copy of what they share, and the owners of the same part of it."""

from collections.abc import Iterator
from typing import NamedTuple


class Grid(NamedTuple):
    """Ranks in groups, each of which has one copy of the tables among its members.

    The members of a group are neighbours. A launcher numbers the ranks of a host one behind the other, so that a group
    is on one host where it fits: its members wait for each other some dozen times in a step, and what they send grows
    with the tokens. The owners of the same rows, one in each group, only sum these rows' gradients, once.

    >>> grid = Grid(size=6, together=2)
    >>> [list(grid.group(rank)) for rank in (0, 2, 5)]
    [[0, 1], [2, 3], [4, 5]]
    >>> [list(grid.owners(rank)) for rank in (0, 5)]
    [[0, 2, 4], [1, 3, 5]]

    Attributes:
      size: how many ranks there are.
      together: how many share a copy, a divisor of that; where it is none, that is refused before anything is shared.
    """

    size: int
    together: int

    @property
    def groups(self) -> int:
        """How many there are."""
        return self.size // self.together

    def group(self, rank: int) -> range:
        """The ranks that share a copy with this one."""
        first = rank - rank % self.together
        return range(first, first + self.together)

    def owners(self, rank: int) -> range:
        """The ranks that have the same place in their groups as this one."""
        return range(rank % self.together, self.size, self.together)

    def parts(self) -> Iterator[range]:
        """Every group and all owners of each part; none where these are single ranks or all, or there is no grid."""
        if 1 < self.together < self.size and self.size % self.together == 0:
            yield from (self.group(first) for first in range(0, self.size, self.together))
            yield from (self.owners(place) for place in range(self.together))
