"""What a rank makes of an exchange that fails, and of a Horovod that does not load."""

import errno
import os
import sys

import pytest
import tensorflow as tf

from tfnmt.cluster import ranks as module
from tfnmt.cluster.pulse import Pulse
from tfnmt.cluster.ranks import Ranks, RankSettings, RegroupError
from tfnmt.errors import LostError, UserError

SHUT_DOWN = tf.errors.UnknownError(None, None, "Horovod has been shut down.")
OWN = [
    tf.errors.InvalidArgumentError(None, None, "a bad record"),
    tf.errors.UnknownError(None, None, "ValueError: a bad record"),
]


@pytest.fixture(name="ranks")
def _ranks():
    """Rank 0 of two, the other of which is gone; nobody has met."""
    ranks = object.__new__(Ranks)
    ranks.rank, ranks.size, ranks.hosts, ranks._elastic = 0, 2, ["here", "there"], None
    ranks._addresses = [Pulse("127.0.0.1").address, "127.0.0.1:1"]
    return ranks


def fail(error):
    raise error


def test_who_is_gone_is_named(ranks):
    with pytest.raises(LostError, match="rank 1 on there is gone; training ends"):
        ranks.run(fail, SHUT_DOWN)


def test_elastic_ranks_meet_anew(ranks):
    ranks._elastic = object()
    with pytest.raises(RegroupError):
        ranks.run(fail, SHUT_DOWN)


@pytest.mark.parametrize("error", OWN)
@pytest.mark.parametrize("elastic", [None, object()])
def test_own_errors_are_nobody_s_loss(ranks, error, elastic):
    """The negative control: to meet anew would only repeat them."""
    ranks._elastic = elastic
    with pytest.raises(type(error), match="a bad record"):
        ranks.run(fail, error)


def test_a_full_disk_is_refused_by_all(ranks):
    ranks.gather = lambda faults: [faults, faults]
    with pytest.raises(UserError, match=r"^here: No space left on device. Make room there.$"), ranks.agreeing():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "here")
    with pytest.raises(OSError, match="Bad file descriptor"), ranks.agreeing():
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "here")


def test_horovod_without_its_libraries(monkeypatch, tmp_path):
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").touch()
    (tmp_path / "horovod" / "tensorflow.py").write_text(
        "import tensorflow as tf\nraise tf.errors.NotFoundError(None, None, 'libmpi.so.40: cannot open')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loaded = [name for name in sys.modules if name.partition(".")[0] == "horovod"]
    for name in {"horovod", "horovod.tensorflow", *loaded}:
        monkeypatch.setitem(sys.modules, name, None)  # so that what is imported here is forgotten behind the test
        del sys.modules[name]
    monkeypatch.setattr(module, "require_horovod", lambda: None)
    with pytest.raises(UserError, match=r"Horovod does not load: libmpi.so.40: cannot open\. Run: tools/set_up"):
        Ranks(RankSettings())
