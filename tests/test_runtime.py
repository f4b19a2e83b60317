"""TensorFlow starts without a word."""

import os
import subprocess
import sys

import pytest

from tfnmt import installation, runtime


def _run(program: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL",)}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, "PYTHONPATH": str(installation.ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_command_starts_without_a_word_and_without_keras():
    """Which whoever asks for it gets all the same."""
    result = _run(
        "import pkgutil, importlib, sys, tfnmt.commands as commands\n"
        "for module in pkgutil.iter_modules(commands.__path__):\n"
        "    importlib.import_module(f'tfnmt.commands.{module.name}')\n"
        "from absl import app\n"
        "from tfnmt import runtime\n"
        "def main(_):\n"
        "    runtime.prepare(1)\n"
        "    import tensorflow as tf\n"
        "    print(tf.config.threading.get_intra_op_parallelism_threads(), (tf.ones([2]) + 1).numpy())\n"
        "    print('keras' in sys.modules, tf.keras.Model.__name__)\n"
        "app.run(main)\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "1 [2. 2.]\nFalse Model\n", "")


def test_names_of_types_are_compiled_once_while_tensorflow_starts():
    """Python's own compile counts for `typing` before and behind it."""
    program = """
import builtins, typing
compiled, count = builtins.compile, []
builtins.compile = lambda source, name, *more, **words: (
    name == "<string>" and count.append(source), compiled(source, name, *more, **words)
)[1]
from tfnmt import runtime
assert "compile" not in vars(typing)
named = [source for source in count if isinstance(source, str)]
print(len(named) - len(set(named)))
"""
    assert int(_run(program).stdout) < 1000


def test_a_process_started_by_another_is_as_quiet():
    result = _run("from tfnmt import runtime; runtime.prepare()", TF_CPP_MIN_LOG_LEVEL=runtime.ERRORS_ONLY)
    assert (result.returncode, result.stderr) == (0, "")


def test_who_asks_for_messages_gets_them():
    result = _run("from tfnmt import runtime; runtime.prepare()", TF_CPP_MIN_LOG_LEVEL="0")
    assert result.returncode == 0
    assert "cpu_feature_guard" in result.stderr


def test_a_broken_tensorflow_is_named_by_the_import_that_needs_it(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'noise\\n')\nraise ImportError('no libmissing.so')"
    )
    program = "import tfnmt.runtime as r; print(repr(r.start_error), r.start_messages); r.prepare()"
    result = _run(program, PYTHONPATH=f"{tmp_path}:{installation.ROOT}")
    assert result.stdout == "ImportError('no libmissing.so') ['noise']\n"
    assert result.returncode == 1
    assert result.stderr.endswith("ImportError: no libmissing.so\n")


def test_standard_error_comes_back_and_what_was_written_is_kept(capfd):
    messages: list[str] = []
    with pytest.raises(ValueError), runtime.standard_error_aside(messages):
        os.write(2, b"from a library\n")
        print("from Python", file=sys.stderr)
        raise ValueError
    os.write(2, b"afterwards\n")
    assert "from a library" in messages
    assert capfd.readouterr().err.endswith("afterwards\n")


def test_streams_have_a_core_each():
    result = _run(
        "from tfnmt import runtime\n"
        "runtime.prepare(3, in_streams=True)\n"
        "import tensorflow as tf\n"
        "print(runtime.streams(), tf.config.threading.get_intra_op_parallelism_threads())\n"
    )
    assert (result.stdout, result.stderr) == ("3 1\n", "")


@pytest.mark.parametrize("threads, in_streams", [(2, False), (runtime.MOST_STREAMS + 1, True)])
def test_elsewhere_an_operation_has_every_core(threads, in_streams):
    result = _run(
        "from tfnmt import runtime\n"
        f"runtime.prepare({threads}, in_streams={in_streams})\n"
        "import tensorflow as tf\n"
        "print(runtime.streams(), tf.config.threading.get_intra_op_parallelism_threads())\n"
    )
    assert (result.stdout, result.stderr) == (f"1 {threads}\n", "")


def test_the_number_of_threads_cannot_change():
    runtime.prepare()
    runtime.prepare(2)
    with pytest.raises(RuntimeError, match="2 threads already, not with 3"):
        runtime.prepare(3)


def test_functions_of_this_project_are_not_rewritten(tmp_path):
    """Autograph would leave each as a file in the temporary directory when a process ends at once."""
    result = _run(
        "import os\n"
        "from tfnmt import runtime\n"
        "import tensorflow as tf\n"
        "from tfnmt.batch import is_token\n"
        "list(tf.data.Dataset.range(3).map(is_token))\n"
        "os._exit(0)\n",
        TMPDIR=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.iterdir())
