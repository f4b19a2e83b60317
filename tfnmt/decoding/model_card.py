"""The model card of an export: what it is, what it was trained on, how good it is, and how to use it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tfnmt
from tfnmt.data.corpus import DESCRIPTION
from tfnmt.data.settings import DataSettings
from tfnmt.decoding.ctranslate2_export import Check
from tfnmt.decoding.loading import Trained
from tfnmt.decoding.shortlist import Shortlist
from tfnmt.evaluation import Scores
from tfnmt.models.registry import ModelChoice
from tfnmt.run_directory import RunDirectory

NAME = "README.md"
UNRECORDED = "not recorded"

_USE = """\
import ctranslate2, sentencepiece
source = sentencepiece.SentencePieceProcessor(model_file="FOLDER/{source}")
target = sentencepiece.SentencePieceProcessor(model_file="FOLDER/{target}")
translator = ctranslate2.Translator("FOLDER")
sentences = [source.encode("A sentence .", out_type=str)]
(result,) = translator.translate_batch(sentences, beam_size=5, disable_unk=True{map})
print(target.decode(result.hypotheses[0]))"""


def write(
    directory: Path,
    run: RunDirectory,
    trained: Trained,
    check: Check,
    quantization: str,
    shortlist: Shortlist | None = None,
) -> None:
    """Writes the card of the export in `directory`, whose other files are there already."""
    data = run.settings(DataSettings)
    corpus = _corpus(data)
    languages = str(corpus.get("languages") or data.languages or "")
    metadata = [f"language: [{', '.join(languages.split('-'))}]"] if languages else []
    metadata += ["library_name: ctranslate2", "pipeline_tag: translation"]
    sections = [
        "\n".join(["---", *metadata, "---"]),
        f"# {languages or 'Translation'}: {trained.names[0]}",
        "\n\n".join([_model(run, trained, quantization), *_shortlist(shortlist)]),
        f"## Training text\n\n{_training_text(data, corpus)}",
        f"## Quality\n\n{_quality(run, trained, check)}",
        "## Use\n\n    tfnmt-translate --exported=FOLDER <input >output\n\nor, without tfnmt,",
        _use(directory, shortlist),
    ]
    (directory / NAME).write_text("\n\n".join(sections) + "\n", "utf-8")


def _model(run: RunDirectory, trained: Trained, quantization: str) -> str:
    kind, settings = run.settings(ModelChoice).model, vars(trained.models[0].settings)
    shape = ", ".join(f"{name} {settings[name]}" for name in _SHAPE)
    return (
        f"A {kind} ({shape}; {trained.layouts[0].parameter_count:,} parameters) of tfnmt {tfnmt.__version__}, "
        f"for CTranslate2, stored in {quantization}."
    )


def _shortlist(shortlist: Shortlist | None) -> list[str]:
    if shortlist is None:
        return []
    return [
        f"Candidates for a translation are the {len(shortlist.frequent)} most frequent subwords and, of each source "
        f"subword, itself and its {shortlist.best} most probable translations at most, by eflomal's alignments of "
        f"{shortlist.pairs:,} pairs of the training text. `use_vmap=False` allows all."
    ]


_SHAPE = ("encoder_layers", "decoder_layers", "width", "heads", "feed_forward_width", "normalization")


def _corpus(data: DataSettings) -> Mapping[str, Any]:
    """What tfnmt-corpus has written about the training text; empty where it is gone or of other origin."""
    try:
        found = json.loads((Path(data.data) / DESCRIPTION).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _training_text(data: DataSettings, corpus: Mapping[str, Any]) -> str:
    if data.train_pipe:
        return f"Pairs that came through a pipe.\n\nIts licences are {UNRECORDED}."
    where = data.data or ", ".join((*data.train_source, *data.train_target))
    name = f"{corpus['corpus']}, " if "corpus" in corpus else ""
    sources = [source for source in corpus.get("sources", []) if isinstance(source, dict)]
    lines = [f"{name}{where}", "", *(f"- {_source(source)}" for source in sources)]
    return "\n".join([*lines, *([] if sources else [f"Its licences are {UNRECORDED}."])])


def _source(source: Mapping[str, Any]) -> str:
    version = f" {source['version']}" if source.get("version") else ""
    return f"{source.get('name', 'a source')}{version}, licence: {source.get('licence') or UNRECORDED}"


def _quality(run: RunDirectory, trained: Trained, check: Check) -> str:
    text = check.text
    checked = (
        f"On {len(text.sources):,} sentences of {' and '.join(text.names)}, greedy, in {check.arithmetic}, of which "
        f"{check.equal:,} are translated as by the run itself (BLEU {check.scores.bleu:.2f}):"
    )
    parts = [checked, _scores(check.exported_scores.as_dict())]
    for record in _evaluations(run, trained.names):
        search = record["decoding"]
        parts += [
            f"The run itself, not quantized, on {record['sentences']:,} sentences of {' and '.join(record['files'])}, "
            f"beam {search['beam_size']}, length penalty {search['length_penalty']:g}:",
            _scores(record),
        ]
    return "\n\n".join(parts)


def _scores(scores: Mapping[str, Any]) -> str:
    """The scores by their names in `Scores`, indented."""
    values = {name: scores[name] for name in Scores._fields if name != "intervals"}
    return "\n".join(f"    {line}" for line in str(Scores(**values, intervals={})).splitlines())


def _evaluations(run: RunDirectory, names: Sequence[str]) -> Iterable[Mapping[str, Any]]:
    """What tfnmt-evaluate has recorded of this checkpoint; the last of those with the same files and search."""
    path = run.path / "evaluation.jsonl"
    last: dict[str, Mapping[str, Any]] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        record = json.loads(line)
        if record["models"] == list(names):
            last[json.dumps([record["files"], record["decoding"]])] = record
    return last.values()


def _use(directory: Path, shortlist: Shortlist | None) -> str:
    names = sorted(path.name for path in directory.glob("vocabulary*.model"))
    use = _USE.format(source=names[0], target=names[-1], map=", use_vmap=True" if shortlist else "")
    return "\n".join(f"    {line}" for line in use.splitlines())
