"""tfnmt-export --format=ctranslate2 and tfnmt-translate --exported, as a user runs them."""

import contextlib
import io
import json
import re

import pytest
import sacrebleu

from tests.decoding import trained_transformer
from tfnmt.commands import evaluate, export, translate
from tfnmt.decoding import ctranslate2_format

LINES = [source for source, _ in trained_transformer.lines(10, seed=4)]
INPUT = "".join(f"{line}\n" for line in [*LINES[:4], "", *LINES[4:], "  "]).encode()


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("taught") / "corpus"
    run = trained_transformer.make_run(directory, trained_transformer.SHAPE)
    sources = [{"name": "toys", "version": "1", "licence": "MIT"}]
    (directory / "corpus.json").write_text(json.dumps({"corpus": "toy", "languages": "en-de", "sources": sources}))
    return run


def test_an_exported_folder_translates_without_the_run(run, call, tmp_path, caplog):
    call(evaluate, f"--run_directory={run.path}", "--beam_size=2")
    flags = ["--format=ctranslate2", "--quantization=int8", "--largest_bleu_loss=9"]
    call(export, f"--run_directory={run.path}", f"--output={tmp_path / 'exported'}", *flags)
    assert re.search(r"In float32 40 of 40 sentences are translated alike; BLEU", caplog.text)
    assert re.search(r"In int8 \d+ of 40 sentences are translated alike; BLEU [\d.]+, of the run itself", caplog.text)
    for beam in (1, 3):
        search = [f"--beam_size={beam}", "--chunk_sentences=5"]
        expected, _ = call(translate, f"--run_directory={run.path}", *search, standard_input=INPUT)
        found, _ = call(translate, f"--exported={tmp_path / 'exported'}", *search, standard_input=INPUT)
        assert len(found) == 12 and found[4] == found[11] == ""
        # 8 bits may change words, and how many depends on the processor.
        assert sacrebleu.corpus_chrf(found, [expected]).score > 80
        assert sacrebleu.corpus_chrf(found[::-1], [expected]).score < 60
    _, error = call(translate, f"--exported={tmp_path}", f"--run_directory={run.path}", expect=2)
    assert "give one of them" in error
    _, error = call(translate, f"--exported={tmp_path}", "--checkpoint=newest", expect=2)
    assert "--checkpoint does nothing with --exported" in error


@pytest.mark.parametrize("shortlist", [0, 9])
def test_the_model_card(run, call, tmp_path, shortlist):
    call(evaluate, f"--run_directory={run.path}", "--beam_size=2")
    directory = tmp_path / "exported"
    flags = [f"--shortlist={shortlist}", "--largest_bleu_loss=100"] if shortlist else []
    call(export, f"--run_directory={run.path}", f"--output={directory}", "--format=ctranslate2", *flags)
    card = (directory / "README.md").read_text()
    assert ("use_vmap=True" in card and "the 9 most frequent subwords" in card) == bool(shortlist)
    assert ("by eflomal's alignments of 120 pairs" in card) == (directory / "vmap.txt").exists() == bool(shortlist)
    assert card.startswith("---\nlanguage: [en, de]\n")
    assert "- toys 1, licence: MIT" in card and "stored in float32" in card and str(run.path) in card
    greedy, beam = re.findall(r"BLEU +([\d.]+)  (\S+)", card)
    assert "tok:13a" in greedy[1] and "tok:13a" in beam[1] and "beam 2, length penalty 0.6" in card
    # Its example runs without tfnmt, and translates as tfnmt does.
    example = "\n".join(line[4:] for line in card.splitlines() if line.startswith("    ")).partition("import ")[2]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(f"import {example}".replace("FOLDER", str(directory)).replace("A sentence .", LINES[0]))
    expected, _ = call(translate, f"--exported={directory}", "--beam_size=5", standard_input=f"{LINES[0]}\n".encode())
    assert out.getvalue().splitlines() == expected


def test_a_wrong_export_ends_with_1_and_leaves_nothing(run, call, tmp_path, monkeypatch):
    fill = ctranslate2_format._fill_norm

    def with_another_sign(spec, arrays, name):
        fill(spec, arrays, name)
        spec.gamma = -spec.gamma

    monkeypatch.setattr(ctranslate2_format, "_fill_norm", with_another_sign)
    flags = [f"--run_directory={run.path}", "--format=ctranslate2"]
    _, error = call(export, *flags, f"--output={tmp_path / 'exported'}", expect=1)
    assert re.search(r"error: Sentence \d+, '.*', becomes '.*' and, exported, '.*'\. Nothing was exported", error)
    assert "Traceback" not in error and not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--beam_size=2"], "--beam_size does nothing with --format=ctranslate2"),
        (["--format=savedmodel", "--quantization=int8"], "--quantization does nothing with --format=savedmodel"),
        (["--largest_bleu_loss=1"], "--largest_bleu_loss does nothing with --quantization=float32 and --shortlist=0"),
        (["--format=savedmodel", "--shortlist=9"], "--shortlist does nothing with --format=savedmodel"),
        (["--source=x"], "--source and --reference: give both"),
        (["--source=/no/x", "--reference=/no/y"], "/no/x"),
        (["--checkpoint=best,newest", "--quantization=int3"], "must be one of float32"),
    ],
)
def test_what_export_refuses(run, call, tmp_path, flags, message):
    given = ["--format=ctranslate2", *flags]
    _, error = call(export, f"--run_directory={run.path}", f"--output={tmp_path / 'exported'}", *given, expect=2)
    assert message in error and "Traceback" not in error and not (tmp_path / "exported").exists()


def test_a_run_whose_text_is_gone_needs_other_text(run, call, tmp_path):
    moved = run.path.parent.with_name("moved")
    run.path.parent.rename(moved)
    flags = [f"--run_directory={moved / 'run'}", f"--output={tmp_path / 'exported'}", "--format=ctranslate2"]
    try:
        _, error = call(export, *flags, expect=2)
        assert "Give --source and --reference" in error
        text = [f"--source={moved / 'validation.en'}", f"--reference={moved / 'validation.de'}"]
        call(export, *flags, *text, "--checked_sentences=5")
        assert "On 5 sentences of" in (tmp_path / "exported" / "README.md").read_text()
    finally:
        moved.rename(run.path.parent)
