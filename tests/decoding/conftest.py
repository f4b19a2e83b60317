"""The run directory that several tests read."""

import pytest

from tests.decoding.tiny_run import make_run


@pytest.fixture(name="run", scope="session")
def _run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("tiny") / "first", seeds={10: 1, 20: 2, 30: 3}, metrics={10: 5.0, 20: 7.0})
