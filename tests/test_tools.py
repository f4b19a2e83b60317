"""The tools that measure, on next to nothing: what they run and print, not the figures."""

import json
import re
import subprocess
import sys

import pytest

from tests.programs import SECONDS
from tfnmt.installation import ROOT
from tools.mutants import find_mutants

TINY = f"--flagfile={ROOT / 'configs' / 'transformer_tiny.flags'}"


def tool(name, *flags):
    """Runs a tool: what it prints."""
    words = [sys.executable, str(ROOT / "tools" / name), *map(str, flags)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_benchmark_training(corpus):
    preset = TINY.replace("flagfile", "presets")
    found = tool("benchmark_training", f"--data={corpus}", preset, "--precisions=float32", "--steps=1")
    assert re.search(r"^transformer_tiny in float32: [\d,]+ target tokens/s, [\d.]+% of \d+ GFLOP/s", found, re.M)


def test_benchmark_decoding(corpus):
    flags = [TINY, f"--vocabulary={corpus}", f"--input={corpus / 'test.en'}", "--repeats=1", "--beam_sizes=2"]
    found = tool("benchmark_decoding", *flags, "--checked_batches=1,8", "--checked_sentences=8")
    assert re.search(r"^beam 2, .*: [\d.]+ sentences/s", found, re.M)
    assert "8 of 8 translations are the same" in found


def test_benchmark_cluster():
    found = tool("benchmark_cluster", "--parameters=1000", "--transfers=1")
    assert re.findall(r"^A (pull|push) of .*: [\d.]+ s", found, re.M) == ["pull", "push"]


def test_benchmark_horovod():
    pytest.importorskip("horovod")
    found = tool("benchmark_horovod", "--parameters=1000", "--rank_counts=2", "--repeats=1")
    assert len(re.findall(r"^2 ranks, .*: [\d.]+ s", found, re.M)) == 2


def test_mutate_tells_what_is_known(tmp_path):
    """A mutant without a result, one that was killed, and one whose text was another when it survived."""
    file, output = "tfnmt/engines/pace.py", tmp_path / "mutants.jsonl"
    one, other, *_ = mutants = find_mutants(file, (ROOT / file).read_text())
    told = [(one.address, one.before, one.after, "killed"), (other.address, "older", other.after, "survived")]
    keys = ("address", "before", "after", "result")
    output.write_text("".join(json.dumps(dict(zip(keys, each))) + "\n" for each in told) + '{"addr')
    found = tool("mutate", f"--output={output}", "--summary", "--sample=0", f"--files={file}")
    assert found.splitlines()[0] == f"{file}: 100% of 1 killed; 1 killed, {len(mutants) - 1} not tried"


def test_a_comparison_s_run_can_be_shown(corpus, tmp_path):
    found = tool("compare_strategies", f"--data={corpus}", TINY, "--rows=", "--tokens=2000", f"--output={tmp_path}")
    assert re.search(r"^single +[\d.]+ BLEU", found)
    tool("show_graph", f"--run_directory={tmp_path / 'single'}", f"--output={tmp_path / 'graphs'}")
    shown = {path.parent.name for path in (tmp_path / "graphs").glob("*/events.*")}
    assert shown == {"forward_backward", "reduce_average", "broadcast"}


def test_a_study_tells_what_there_is(corpus, tmp_path):
    """Nothing yet: its trainings take hours, and tests/test_scaling_study.py does a part of one."""
    found = tool("scaling_study", f"--data={corpus}", TINY, f"--output={tmp_path}", "--report")
    assert "| model_average | 16 | not trained yet |" in found
    assert {path.name for path in tmp_path.glob("scaling.*")} == {"scaling.md", "scaling.json", "scaling.png"}
