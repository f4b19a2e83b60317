"""What a worker does between one push and the next, in order: its meetings with the servers and its local steps."""

import dataclasses

WHOLE, PULL, FETCH, MERGE, PUSH = "whole", "pull", "fetch", "merge", "push"
"""Kinds of meetings.

WHOLE is the pull of a worker that holds nothing: all fragments, not encoded, and the replica is what the servers have.
FETCH and MERGE are the halves of a PULL: what is fetched while steps go on, is merged behind them.
"""


@dataclasses.dataclass(frozen=True)
class Meeting:
    """A worker meets the servers, for one fragment of the vectors; all of these where rows have no fragments.

    Attributes:
      kind: what it does.
      back: fragments before the one that the block pushes.
    """

    kind: str
    back: int = 0


@dataclasses.dataclass(frozen=True)
class Steps:
    """So many local steps; `first` says that none came before them since the last push."""

    count: int
    first: bool


Action = Meeting | Steps

Block = tuple[Action, ...]
"""The actions of one call of the graph, in order. Steps behind a push go on while it travels, until the block ends."""

FETCHED = "fetched"
"""The name of the vector in which a worker has what it has fetched and not yet merged."""


def fetched(slot: str) -> str:
    """The name of the same for an averaged slot."""
    return f"{FETCHED}_{slot}"
