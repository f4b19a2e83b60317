"""A transport between threads of this process, for what ranks do."""

import threading
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from tfnmt.transport import Transport


class Threads:
    """As many ranks as threads, which exchange eagerly."""

    def __init__(self, size):
        self._size, self._rank = size, threading.local()
        self._given, self._barrier = [None] * size, threading.Barrier(size, timeout=60)

    def run(self, function):
        """What the function of transport and rank returns on each rank."""
        transport = Transport(lambda: self._size, self._allreduce, self._allgather, self._alltoall, self._broadcast)

        def run_one(rank):
            self._rank.number = rank
            try:
                return function(transport, rank)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self._size) as pool:
            return list(pool.map(run_one, range(self._size)))

    def _exchange(self, given, name):
        self._given[self._rank.number] = given, name
        self._barrier.wait()
        everybody, names = zip(*self._given)
        self._barrier.wait()
        assert set(names) == {name}
        return everybody

    def _allreduce(self, vector, name):
        return tf.add_n(list(self._exchange(vector, name)))

    def _allgather(self, rows, name):
        return tf.concat(self._exchange(rows, name), axis=0)

    def _alltoall(self, rows, counts, name):
        parts = [tf.split(*each)[self._rank.number] for each in self._exchange((rows, counts), name)]
        return tf.concat(parts, axis=0), tf.stack([tf.shape(part)[0] for part in parts])

    def _broadcast(self, tensor, root, name):
        return self._exchange(tensor, name)[root]
