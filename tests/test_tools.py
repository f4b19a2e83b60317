"""The tools that measure, on next to nothing: what they run and print, not the figures."""

import json
import re
import subprocess
import sys

import pytest

from tests.decoding import trained_transformer
from tests.programs import SECONDS
from tfnmt.installation import ROOT
from tools.mutants import find_mutants

LANGUAGES = {"source": "en", "reference": "de"}
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


def test_benchmark_corpus(tmp_path):
    found = tool("benchmark_corpus", f"--output={tmp_path}", "--pairs=10000", "--processes=2", "--updates=2")
    assert re.search(r"^10,000 pairs: [\d.]+ s, [\d,]+ pairs/s, at most [\d,]+ MB in all processes", found, re.M)
    assert re.search(r"^training: [\d.]+ s to the first update, [\d.]+% of the time waiting for data", found, re.M)
    steps = json.loads((tmp_path / "prepared" / "corpus.json").read_text())["steps"]
    clean = next(step for step in steps if step["step"] == "clean")
    assert clean["dropped"].keys() >= {"duplicates", "markup", "empty", "same on both sides", "length ratio"}


def test_benchmark_cluster():
    found = tool("benchmark_cluster", "--parameters=1000", "--transfers=1")
    assert re.findall(r"^A (pull|push) of .*: [\d.]+ s", found, re.M) == ["pull", "push"]


def test_benchmark_horovod():
    pytest.importorskip("horovod")
    found = tool("benchmark_horovod", "--parameters=1000", "--rank_counts=2", "--repeats=1")
    assert len(re.findall(r"^2 ranks, .*: [\d.]+ s", found, re.M)) == 2


def test_benchmark_vocabulary_parallel():
    """The bytes of both ways are those of the formulas, within a hundredth."""
    pytest.importorskip("horovod")
    flags = [TINY, "--vocabularies=3000", "--step_tokens=128", "--steps=1"]
    found = tool("benchmark_vocabulary_parallel", *flags)
    assert re.search(
        r"^2 ranks, 3,000 tokens of vocabulary, 128 of a step, .*: [\d.]+ s and [\d.]+ \([\d.]+\), ", found
    )
    shares = re.search(r"bytes over the formula's ([\d.]+) and ([\d.]+)", found).groups()
    assert [float(share) for share in shares] == pytest.approx([1, 1], abs=0.01)


def test_try_slurm_names_what_is_missing(tmp_path):
    words = [sys.executable, str(ROOT / "tools" / "try_slurm"), f"--data={tmp_path}", f"--output={tmp_path}"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, env={"PATH": ""})
    assert ended.returncode == 2
    assert "`slurmctld` is not installed." in ended.stderr and f"--output={tmp_path}: exists already." in ended.stderr


def test_benchmark_sparse_embeddings():
    flags = [TINY, "--tied_embeddings=target", "--vocabularies=3000", "--target_vocabulary=40", "--step_tokens=128"]
    found = tool("benchmark_sparse_embeddings", *flags, "--workers=1", "--updates=1")
    assert re.search(r"^1 workers, 3,000 tokens of source vocabulary, \d+ in a batch, .* MB pulled \(0\.", found)


def test_mutate_tells_what_is_known(tmp_path):
    """A mutant without a result, one that was killed, and one whose text was another when it survived."""
    file, output = "tfnmt/engines/pace.py", tmp_path / "mutants.jsonl"
    one, other, *_ = mutants = find_mutants(file, (ROOT / file).read_text())
    told = [(one.address, one.before, one.after, "killed"), (other.address, "older", other.after, "survived")]
    keys = ("address", "before", "after", "result")
    output.write_text("".join(json.dumps(dict(zip(keys, each))) + "\n" for each in told) + '{"addr')
    found = tool("mutate", f"--output={output}", "--summary", "--sample=0", f"--files={file}")
    assert found.splitlines()[0] == f"{file}: 100% of 1 killed; 1 killed, {len(mutants) - 1} not tried"


def test_models_in_use_are_measured_and_the_study_goes_on(tmp_path):
    run = trained_transformer.make_run(tmp_path / "taught", trained_transformer.SHAPE)
    text = [f"--{flag}={tmp_path / 'taught' / f'validation.{code}'}" for flag, code in LANGUAGES.items()]
    flags = [f"--runs={run.path}", *text, f"--output={tmp_path / 'out'}", "--repeats=1", "--latency_sentences=2"]
    tool("inference_study", *flags, "--variants=float32", "--beam_sizes=1")
    before = json.loads((tmp_path / "out" / "results.json").read_text())
    found = tool("inference_study", *flags, "--variants=tensorflow,float32,int8,int8_shortlist", "--beam_sizes=1")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    variants = ["float32", "tensorflow", "int8", "int8_shortlist"]
    assert results[:1] == before and [each["variant"] for each in results] == variants
    exact, ours, small, short = results
    assert exact["bleu"] == ours["bleu"] > 5 and small["bytes"] < short["bytes"] < exact["bytes"]
    assert (
        len(re.findall(r"^\| run( \*)? \| (?:float32|tensorflow|int8|int8_shortlist) \| 1 \| [\d.]+ \|", found, re.M))
        == 4
    )
    assert (tmp_path / "out" / "results.md").read_text() in found and " * |" in found
    assert (tmp_path / "out" / "results.png").stat().st_size > 5000


def test_a_comparison_s_run_can_be_shown(corpus, tmp_path):
    """One run is trained; a worse one and one of another seed are there already."""
    for name, cross_entropy, bleu in (("single-0.1-1", 99.0, 50.0), ("single-0.01-2", 9.0, 30.0)):
        (tmp_path / name).mkdir()
        points = [{"kind": "training", "bytes_pulled": 2e9}, {"kind": "validation", "cross_entropy": cross_entropy}]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, points)))
        (tmp_path / name / "evaluation.jsonl").write_text(json.dumps({"bleu": bleu}))
    flags = ("--rows=", "--tokens=2000", "--learning_rates=0.1,0.01", "--seeds=2", f"--output={tmp_path}")
    found = tool("compare_strategies", f"--data={corpus}", TINY, *flags)
    (scores,) = re.findall(
        r"^single +([\d.]+) \(([\d.]+) to 30\.00\) BLEU of the test files, \+0\.00; rate 0\.01; 1\.0 GB", found, re.M
    )
    median, least = map(float, scores)
    assert median == pytest.approx((least + 30) / 2, abs=0.01)
    tool("show_graph", f"--run_directory={tmp_path / 'single-0.01-1'}", f"--output={tmp_path / 'graphs'}")
    import tensorflow as tf

    (path,) = (tmp_path / "graphs").glob("events.*")  # one run of TensorBoard's
    shown = {value.tag for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value}
    assert shown == {"forward_backward", "reduce_average", "broadcast"}


def test_a_study_tells_what_there_is(corpus, tmp_path):
    """Nothing yet: its trainings take hours, and tests/test_scaling_study.py does a part of one."""
    found = tool("scaling_study", f"--data={corpus}", TINY, f"--output={tmp_path}", "--report")
    assert "| model_average | 16 | not trained yet |" in found
    assert {path.name for path in tmp_path.glob("scaling.*")} == {"scaling.md", "scaling.json", "scaling.png"}
