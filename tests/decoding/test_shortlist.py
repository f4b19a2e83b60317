"""A shortlist has the likely translations of each subword, and an export that has one chooses among them alone."""

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from tests.decoding import trained_transformer
from tests.decoding.tiny_run import write_vocabulary
from tfnmt.batch import END_ID
from tfnmt.data.files import TextPair
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.decoding import shortlist
from tfnmt.decoding.ctranslate2_export import CheckedExport, CheckText, DifferentError
from tfnmt.decoding.ctranslate2_format import positions_of, write
from tfnmt.decoding.ctranslate2_translator import CTranslate2Translator
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.errors import UserError

PAIRS = trained_transformer.lines(30, seed=3)
LINES = [source for source, _ in PAIRS]
TEXT = CheckText(("lines",), LINES, [target for _, target in PAIRS], "de")
GREEDY = DecodingSettings(beam_size=1, longest_source_tokens=24)
ALONE = dataclasses.replace(GREEDY, decoding_batch_sentences=1)


@pytest.fixture(name="model", scope="module", params=["joint", "separate"])
def _model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "corpus"
    joint = request.param == "joint"
    shape = trained_transformer.SHAPE
    shape = shape if joint else dataclasses.replace(shape, tied_embeddings="none")
    run = trained_transformer.make_run(path, shape, joint=joint)
    return load(TrainedSettings(run_directory=(str(run.path),)))


@pytest.fixture(name="exported")
def _exported(model, tmp_path):
    """A folder without a shortlist."""
    arrays = model.layouts[0].unpack_array(model.vectors[0])
    write(tmp_path, model.models[0].settings, arrays, vocabularies_of(model), positions_of(GREEDY), "float32")
    return tmp_path


def vocabularies_of(model):
    return model.source_vocabulary, model.target_vocabulary


def ids(vocabulary, line):
    return [vocabulary.pieces().index(piece) for piece in vocabulary.segment(line)]


def translations(directory, settings=ALONE, lines=LINES):
    return [best for best, *_ in CTranslate2Translator(directory, settings).translate(lines)]


def everything(model):
    return shortlist.Shortlist(99, 1, list(range(END_ID + 1, model.target_vocabulary.size)), {})


def test_all_subwords_change_nothing_and_some_are_obeyed(model, exported):
    expected = translations(exported)
    everything(model).write(exported, vocabularies_of(model))
    assert [best.tokens for best in translations(exported)] == [best.tokens for best in expected]
    # Of every sentence's subwords the first one's translations are allowed, and nothing else.
    allowed = {number: [END_ID + 1 + number % 5, 20 + number % 7] for number in range(model.source_vocabulary.size)}
    shortlist.Shortlist(2, 1, [END_ID + 3], allowed).write(exported, vocabularies_of(model))
    found = translations(exported)
    assert sum(ours.text != theirs.text for ours, theirs in zip(found, expected)) > len(LINES) / 2
    source, target = (vocabulary.pieces() for vocabulary in vocabularies_of(model))
    for line, best in zip(LINES, found):
        sentence = ids(model.source_vocabulary, line)
        copies = {target.index(source[number]) for number in sentence if source[number] in target}
        candidates = copies | {END_ID, END_ID + 3} | {each for number in sentence for each in allowed[number]}
        assert set(best.tokens) <= candidates
    # Sentences of one batch share their candidates, and in any order each ends.
    for settings in (GREEDY, dataclasses.replace(ALONE, beam_size=3)):
        assert {best.tokens[-1] for best in translations(exported, settings, LINES[::-1])} == {END_ID}


def test_a_forbidden_word_is_not_taken(model, exported):
    """The negative control: without one token of a translation, which is no copy, it becomes another one."""
    (expected,) = translations(exported, lines=LINES[:1])
    target = model.target_vocabulary.pieces()
    copies = set(model.source_vocabulary.segment(LINES[0]))
    forbidden = next(number for number in expected.tokens if target[number] not in copies)
    others = [number for number in everything(model).frequent if number != forbidden]
    everything(model)._replace(frequent=others).write(exported, vocabularies_of(model))
    (found,) = translations(exported, lines=LINES[:1])
    assert forbidden != END_ID and forbidden not in found.tokens and found.text != expected.text


def test_the_map_s_file(model, tmp_path):
    source, target = (vocabulary.pieces() for vocabulary in vocabularies_of(model))
    shortlist.Shortlist(2, 1, [0, 1, 2, 3, 6, 5], {4: [9, 8], 7: [4, 0]}).write(tmp_path, vocabularies_of(model))
    rows = [line.split("\t") for line in (tmp_path / shortlist.NAME).read_text().splitlines()]
    assert [row[0] for row in rows] == ["", *source[4:]] and all(len(row) == 2 for row in rows)
    found = {key: value.split() for key, value in rows}
    assert found[""] == [target[6], target[5]]
    copy = [source[4]] if source[4] in target else []
    assert found[source[4]] == list(dict.fromkeys([*copy, target[9], target[8]]))
    assert "<pad>" not in found[source[7]] and target[4] in found[source[7]]


def test_the_most_counted_targets():
    links = np.array([3 * 10 + 1, 3 * 10 + 4, 3 * 10 + 7, 3 * 10 + 8, 5 * 10 + 9])
    counts = np.array([2, 5, 1, 2, 1])
    assert shortlist.most_counted(links, counts, 10, 3) == {3: [4, 1, 8], 5: [9]}
    assert shortlist.most_counted(links[:0], counts[:0], 10, 3) == {}


@pytest.fixture(name="parallel")
def _parallel(tmp_path):
    """Text of toy words, two vocabularies in which each word is few pieces, and the settings of training."""
    for side in (0, 1):
        text = "".join(f"{pair[side]}\n" for pair in trained_transformer.lines(400, seed=6))
        (tmp_path / str(side)).write_text(text)
    paths = [write_vocabulary(tmp_path / f"{side}.model", (tmp_path / str(side)).read_text()) for side in (0, 1)]
    return TextPair(str(tmp_path / "0"), str(tmp_path / "1")), tuple(map(Vocabulary, paths)), DataSettings()


def test_alignments_find_the_words(parallel, tmp_path):
    """Every word of the toy language has one translation: it is the word's only candidate.

    Words are whole here. Which subword of a word goes with which of another is left to chance, for they always stand
    together.
    """
    files, _, data = parallel
    sources, targets = zip(*trained_transformer.lines(400, seed=6))
    source, target = vocabularies = [
        Vocabulary(_write_words(tmp_path / f"words{side}.model", lines))
        for side, lines in enumerate((sources, targets))
    ]
    made = shortlist.make([files], data, tuple(vocabularies), best=4)
    expected = {ids(source, one)[0]: ids(target, other) for one, other in trained_transformer.WORDS.items()}
    assert made.translations == expected


def _write_words(path, lines):
    """A vocabulary of all words, and the special tokens."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="word",
        vocab_size=4 + len(trained_transformer.WORDS),
        minloglevel=2,
        **{"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3},
    )
    path.write_bytes(model.getvalue())
    return path


def test_candidates_of_subwords(parallel):
    """Not more than are wanted, and not the same for all."""
    files, vocabularies, data = parallel
    made = shortlist.make([files], data, vocabularies, best=4)
    assert made.pairs == 400 and made.best == 4 and len(made.frequent) == 4
    assert max(map(len, made.translations.values())) <= 4
    lists = list(made.translations.values())
    assert len({tuple(each) for each in lists}) > len(lists) / 2


def test_frequent_targets_and_pairs_that_training_leaves_out(parallel, monkeypatch):
    """Aligned place by place, so that all counts are known."""
    files, (source, target), data = parallel
    monkeypatch.setattr(shortlist, "_align", _align_place_by_place)
    made = shortlist.make([files], dataclasses.replace(data, max_length=6), (source, target), best=3)
    counts = np.zeros([source.size, target.size])
    pairs = 0
    for pair in trained_transformer.lines(400, seed=6):
        ours, theirs = ids(source, pair[0]), ids(target, pair[1])
        if max(len(ours), len(theirs)) < 6:
            np.add.at(counts, (ours[: len(theirs)], theirs[: len(ours)]), 1)
            pairs += 1
    assert 0 < pairs == made.pairs < 400
    for number, found in made.translations.items():
        assert found == np.argsort(-counts[number], kind="stable")[: min(3, np.count_nonzero(counts[number]))].tolist()
    assert made.translations.keys() == set(np.flatnonzero(counts.sum(1)).tolist())
    monkeypatch.setattr(shortlist, "LARGEST_SAMPLE", 100)
    assert 0 < shortlist.make([files], data, (source, target), best=3).pairs == 100
    with pytest.raises(UserError, match="no pairs that training keeps"):
        shortlist.make([files], dataclasses.replace(data, max_length=2), (source, target), best=3)


def _align_place_by_place(place, pairs):
    sides = [(place / name).read_text().splitlines() for name in ("source", "target")]
    assert len(sides[0]) == len(sides[1]) == pairs
    for name in ("forward", "reverse"):
        links = [" ".join(f"{n}-{n}" for n in range(min(len(a.split()), len(b.split())))) for a, b in zip(*sides)]
        (place / name).write_text("\n".join(links) + "\n")


def test_a_shortlist_that_costs_too_much_is_refused(model, tmp_path):
    checked = CheckedExport(model, GREEDY, TEXT, None)
    few = shortlist.Shortlist(1, 1, [END_ID + 1], {})
    with pytest.raises(DifferentError, match=r"--shortlist=1 costs more BLEU .*; take a longer shortlist, or") as error:
        checked.write(tmp_path, "float32", 0.5, few)
    assert "Sentence" in str(error.value)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(DifferentError, match=r"=int8 with --shortlist=1 costs .*take another quantization or a longer"):
        checked.write(tmp_path, "int8", 0.5, few)
    for path in tmp_path.iterdir():
        path.unlink()
    check = checked.write(tmp_path, "float32", 0, everything(model))
    assert check.equal == len(LINES) and (tmp_path / shortlist.NAME).exists()


def test_a_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "eflomal", None)
    with pytest.raises(UserError, match=r"--shortlist: the package eflomal, .*; install it with .*set_up --tests"):
        shortlist.package()


def test_a_broken_aligner(parallel, monkeypatch):
    """Built for another processor, it dies of SIGILL."""
    files, vocabularies, data = parallel

    def die(*_):
        raise subprocess.CalledProcessError(-4, "eflomal")

    monkeypatch.setattr("eflomal.Aligner.align", die)
    with pytest.raises(UserError, match=r"eflomal failed .*SIGILL.*; build it anew with .*pip install --force-reinst"):
        shortlist.make([files], data, vocabularies, best=4)


def test_text_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"came through a pipe. --shortlist aligns .*; export without it"):
        shortlist.training_files(DataSettings(train_pipe="-"))
    with pytest.raises(UserError) as error:
        shortlist.training_files(DataSettings(data=str(tmp_path / "gone"), languages="en-de"))
    assert "no such directory" in str(error.value) and "export without it" in str(error.value)
