"""Texts as numbers of 64 bits, so that those that come twice are found without keeping any text.

Two different texts have one key with a probability of 2**-64, and any two of n texts with one of n**2 / 2**65: of
40,000 corpora of 30 million pairs, one has such a collision. It would drop one pair too many, as a duplicate, or keep
one from being held out; nothing else can come of it.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_BUCKET = 1 << 21  # keys that are sorted at once
_BLOCK = 1 << 20  # keys that are compared at once


def key_of(text: str) -> int:
    """The key of `text`: its order among keys is that of the SHA-256 hash, and so looks random."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class KeyColumn:
    """Keys of a whole corpus in a file without a name, which is gone with the process however that ends."""

    def __init__(self, directory: Path):
        """The file is in `directory`, whose disk must have room for eight bytes a key."""
        self._directory = directory
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 (`close` closes it)

    def append(self, keys: np.ndarray) -> None:
        """Adds keys, uint64.

        Raises:
          OSError: the disk is full; the error names the directory.
        """
        try:
            self._file.write(keys.tobytes())
            self._file.flush()
        except OSError as error:
            error.filename = str(self._directory)
            raise

    def read(self) -> np.ndarray:
        """All the keys, uint64."""
        self._file.seek(0)
        return np.fromfile(self._file, np.uint64)

    def close(self) -> None:
        """Drops the keys."""
        self._file.close()


def first_occurrences(keys: np.ndarray) -> np.ndarray:
    """Which of the `keys` come for the first time; bool, as many."""
    found = np.zeros(len(keys), bool)
    for rows in _buckets(keys, np.ones(len(keys), bool)):
        found[rows[np.unique(keys[rows], return_index=True)[1]]] = True
    return found


def unique(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which of the `keys` are `among` those asked for, bool, and equal to no other of these; bool, as many."""
    found = np.zeros(len(keys), bool)
    for rows in _buckets(keys, among):
        _, first, counts = np.unique(keys[rows], return_index=True, return_counts=True)
        found[rows[first[counts == 1]]] = True
    return found


def contained(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the `keys` are in `others`, which are sorted; bool, as many."""
    found = np.zeros(len(keys), bool)
    for start in range(0, len(keys) if len(others) else 0, _BLOCK):
        part = keys[start : start + _BLOCK]
        places = np.minimum(np.searchsorted(others, part), len(others) - 1)
        found[start : start + _BLOCK] = others[places] == part
    return found


def smallest(keys: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` smallest keys `among` those asked for, bool, the smallest in front; int64."""
    best = np.empty(0, np.int64)
    for start in range(0, len(keys), _BLOCK):
        best = np.concatenate([best, start + np.flatnonzero(among[start : start + _BLOCK])])
        best = best[np.argsort(keys[best], kind="stable")[:count]]
    return best


def _buckets(keys: np.ndarray, among: np.ndarray) -> Iterator[np.ndarray]:
    """The places of all keys `among` those asked for, equal keys together, some at a time and so in little memory."""
    borders = np.linspace(0, 2.0**64, -(-len(keys) // _BUCKET) + 1)[1:-1].astype(np.uint64)
    low = np.uint64(0)
    for high in [*borders, None]:
        is_in = among & (keys >= low)
        if high is not None:
            is_in &= keys < high
            low = high
        yield np.flatnonzero(is_in)
