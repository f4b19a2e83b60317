"""Commands called in this process."""

import io

import pytest


@pytest.fixture(name="call")
def _call(monkeypatch, capfdbinary):
    def call(command, *flags, standard_input=b"", expect=0):
        """Exit code, lines of standard output, and the text of standard error."""
        monkeypatch.setattr("sys.argv", [command.__name__, *map(str, flags)])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(standard_input)))
        with pytest.raises(SystemExit) as end:
            command.main()
        out, error = capfdbinary.readouterr()
        assert (end.value.code or 0) == expect, error.decode()
        return out.decode().splitlines(), error.decode()

    return call
