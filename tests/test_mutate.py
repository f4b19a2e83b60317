"""The mutants of a toy file, and the tests that each of them meets."""

import json
import subprocess
import sys

from tests.programs import SECONDS
from tfnmt.installation import ROOT
from tools.mutant_tests import covering, within
from tools.mutants import find_mutants, sample

TOY = '''"""A toy."""

import logging


def clipped(value: float, limit: float = 2.0, *, name="clipped") -> float:
    """At most the limit."""
    assert limit > 5
    logging.info("clipping %s", value + 7)
    if value > limit and not limit < 0:
        value = limit  # the limit
    return min(value, limit)


class Counter:
    def add(self, numbers):
        self.total += sum(number for number in numbers if number >= 0)
        with self.lock:
            self.seen.append(setting(3, minimum=1))
        raise ValueError(f"{1 + 1}")
'''
EXPECTED = {
    ("plus one", "limit: float = (3.0)"),
    ("negated", "limit: float = (-2.0)"),
    ("zero", "limit: float = (0.0)"),
    ("condition true", "if (True):"),
    ("condition false", "if (False):"),
    ("and/or", "if (value > limit or not limit < 0):"),
    ("operand 0 removed", "if (not limit < 0):"),
    ("operand 1 removed", "if (value > limit):"),
    ("Gt to GtE 0", "if (value >= limit) and"),
    ("Gt to LtE 0", "if (value <= limit) and"),
    ("sign or not removed", "and (limit < 0):"),
    ("Lt to LtE 0", "not (limit <= 0):"),
    ("Lt to GtE 0", "not (limit >= 0):"),
    ("plus one", "limit < (1):"),
    ("statement removed", "pass # the limit"),
    ("return None", "return None"),
    ("call of max", "return (max(value, limit))"),
    ("arithmetic", "self.total -= sum("),
    ("statement removed", "pass"),
    ("condition true", "if (True))"),
    ("condition false", "if (False))"),
    ("GtE to Gt 0", "if (number > 0))"),
    ("GtE to Lt 0", "if (number < 0))"),
    ("plus one", "if number >= (1))"),
    ("without context", "with (__import__('contextlib').nullcontext()):"),
}
MUTANTS = find_mutants("toy.py", TOY)


def test_operators_on_a_toy():
    found = [(mutant.operator, mutant.after) for mutant in MUTANTS]
    for operator, text in EXPECTED:
        assert [each for each in found if each[0] == operator and text in each[1]], (operator, text)
    for operator, after in found:
        assert [each for each in EXPECTED if each[0] == operator and each[1] in after], (operator, after)


def test_a_mutant_is_one_change_that_compiles():
    lines = TOY.splitlines()
    for mutant in MUTANTS:
        changed = mutant.apply(TOY)
        compile(changed, "toy", "exec")
        others = changed.splitlines()
        assert [number for number, pair in enumerate(zip(lines, others), 1) if pair[0] != pair[1]] == [mutant.line]
        told = [" ".join(each[mutant.line - 1].split()) for each in (lines, others)]
        assert told == [mutant.before, mutant.after]
        assert mutant.span[0] <= mutant.line <= mutant.span[1]


def test_addresses_are_unique():
    assert len({mutant.address for mutant in MUTANTS}) == len(MUTANTS)


def test_a_statement_of_several_lines_is_one_span():
    source = "def f(a, b):\n    return (\n        a\n        + b * 2\n    )\n"
    assert {mutant.span for mutant in find_mutants("toy.py", source)} == {(2, 5)}
    [mutant] = [each for each in find_mutants("toy.py", source) if each.operator == "arithmetic" and each.line == 4]
    assert (mutant.before, mutant.after) == ("+ b * 2", "+ (b / 2)")


def test_text_in_other_alphabets_does_not_shift_the_place():
    [mutant] = [each for each in find_mutants("toy.py", "α, β = 1, 2 + γ\n") if each.operator == "arithmetic"]
    assert mutant.apply("α, β = 1, 2 + γ\n") == "α, β = 1, (2 - γ)\n"


def test_a_sample_is_drawn_by_its_seed_and_survives_other_lines():
    chosen = sample(MUTANTS, 10, seed=1)
    assert len(chosen) == 10
    assert chosen == sample(MUTANTS[::-1], 10, seed=1)
    assert chosen != sample(MUTANTS, 10, seed=2)
    assert len(sample(MUTANTS, 0, seed=1)) == len(MUTANTS)
    moved = sample(find_mutants("toy.py", "# a comment\n" + TOY), 10, seed=1)
    assert [each.after for each in moved] == [each.after for each in chosen]


def test_a_mutant_meets_the_tests_of_its_lines():
    """The fastest first; of a line that belongs to no test, all that may depend on it."""
    recordings = [
        {
            "seconds": {"a": 3.0, "b": 1.0, "c": 2.0},
            "lines": {"core.py": {"1": [""], "2": ["a", "b"], "4": ["b"]}, "other.py": {"2": ["c"]}},
        },
        {"seconds": {"d": 0.5, "e": 9.0}, "lines": {"core.py": {"3": ["d"], "4": ["fixture"]}}},
        {"seconds": {"f": 1.0}, "lines": {}},
    ]
    found = {span: list(covering(recordings, "core.py", span)) for span in [(1, 1), (2, 2), (3, 4), (5, 9)]}
    assert found == {(1, 1): ["b", "a"], (2, 2): ["b", "a"], (3, 4): ["d", "b", "e"], (5, 9): []}
    few = covering(recordings, "core.py", (2, 3))
    assert [list(within(few, seconds)) for seconds in (0, 1.5, 0.1)] == [["d", "b", "a"], ["d", "b"], ["d"]]
    assert few == {"d": 0.5, "b": 1.0, "a": 3.0}


CORE = "LIMIT = 2\n\ndef double(value):\n    return value * 2\n\ndef half(value):\n    return value / 2\n"
TESTS = """
import pytest
from graphs.toy import LIMIT, double, half

@pytest.fixture(scope="module")
def four():
    return double(2)

def test_of_double(four):
    assert four == 4

def test_of_double_again(four):
    assert four < 5

def test_of_half():
    assert half(4) == LIMIT
"""
CHANGES = {
    "killed": ("value * 2", "value * 3"),
    "killed at import": ("LIMIT", "LIMITS"),
    "crashed": ("return value * 2", "import os; os.kill(os.getpid(), 9)"),
    "timed out": ("return value * 2", "import signal; signal.alarm(1); any(iter(int, 1))"),
    "survived": ("value * 2", "value + 2"),
}
PROGRAM = """
import functools, json, pathlib, sys
from tools import mutant_tests
root, place, changes = *map(pathlib.Path, sys.argv[1:3]), json.loads(sys.argv[3])
copy, core = mutant_tests.Copy(root, place), "graphs/toy.py"

def run(work, *arguments):
    process = mutant_tests.start(copy, functools.partial(work, copy, *arguments))
    process.join()
    mutant_tests.end(process)
    return process.exitcode, json.loads(copy.report.read_text()) if copy.report.exists() else None

_, recording = run(mutant_tests.record, "tests/test_toy.py", [core])
tests = mutant_tests.covering([recording], core, (4, 4))
found = {"recorded": sorted(tests)}
for name, (old, new) in changes.items():
    with copy.changed(core, (root / core).read_text().replace(old, new)):
        found[name] = run(mutant_tests.meet, tests)
print(json.dumps(found))
"""


def test_a_mutant_s_fate_in_a_process_of_its_own(tmp_path):
    for name, text in {"graphs/toy.py": CORE, "graphs/__init__.py": "", "tests/test_toy.py": TESTS}.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path / "root", check=True)
    words = [sys.executable, "-c", PROGRAM, tmp_path / "root", tmp_path / "copy", json.dumps(CHANGES)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    # The fixture is made once for the whole file, so any test of the file may see what it does.
    assert found["recorded"] == [f"tests/test_toy.py::test_of_{name}" for name in ("double", "double_again", "half")]
    codes = {name: code for name, (code, _) in list(found.items())[1:]}
    assert codes == {"killed": 1, "killed at import": 2, "crashed": -9, "timed out": -14, "survived": 0}
    assert found["killed"][1] in found["recorded"]
    assert found["killed at import"][1] is None
    assert (tmp_path / "copy/graphs/toy.py").read_text() == CORE
