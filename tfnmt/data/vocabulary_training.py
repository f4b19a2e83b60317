"""Makes SentencePiece vocabularies from the training text."""

import dataclasses
import io
import pathlib
import re
from collections.abc import Iterable, Sequence

import sentencepiece

from tfnmt import durable_files
from tfnmt.batch import BEGIN_ID, END_ID, PAD_ID, UNKNOWN_ID
from tfnmt.data.files import TextPair, read_pairs
from tfnmt.data.vocabulary import JOINT_NAME, SOURCE_NAME, TARGET_NAME, Vocabulary, load_vocabularies
from tfnmt.errors import UserError
from tfnmt.settings import setting

_SEED = 1  # of the sample of sentences, when there are more than --vocabulary_sentences
_ERRORS_ONLY = 2  # minloglevel


@dataclasses.dataclass(frozen=True)
class VocabularySettings:
    """How text is cut into pieces."""

    vocabulary: str = setting(
        "",
        f"Directory that gets {JOINT_NAME}, or {SOURCE_NAME} and {TARGET_NAME}; empty for that of --data.",
        is_path=True,
    )
    vocabulary_size: int = setting(8000, "Number of pieces, the four special ones included.", minimum=5)
    vocabulary_type: str = setting("unigram", "Kind of SentencePiece model.", choices=("unigram", "bpe"))
    joint_vocabulary: bool = setting(True, "One vocabulary for both languages.")
    character_coverage: float = setting(
        0.9999, "Share of the text's characters that get pieces; the rarest are unknown.", minimum=0.9, maximum=1
    )
    byte_fallback: bool = setting(False, "Spell unknown characters as bytes, which takes 256 pieces.")
    normalization: str = setting(
        "nmt_nfkc",
        "Unicode normalization before cutting, as SentencePiece names it; cf is lower case, identity none.",
        choices=("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"),
    )
    vocabulary_sentences: int = setting(
        2_000_000, "The vocabulary is made from a random sample of at most so many sentences.", minimum=101
    )

    def every(self, pairs: int) -> int:
        """The step of the sample: of so many pairs one is in it, out of `pairs`; both its sentences if it is joint."""
        return -(-pairs * (1 + self.joint_vocabulary) // self.vocabulary_sentences)


def train_vocabularies(
    files: Sequence[TextPair], directory: str | pathlib.Path, settings: VocabularySettings, *, every: int = 1
) -> tuple[Vocabulary, Vocabulary]:
    """Makes the vocabulary, joint or one for each side, of `files` in `directory`, replacing what is there.

    Of `every` so many pairs it reads one. It returns source and target vocabulary: one object twice if they are joint.

    Raises:
      UserError: the text does not support the size, or the directory cannot be written.
    """
    directory = pathlib.Path(directory)
    if settings.joint_vocabulary:
        lines = (line for pair in read_pairs(*files, every=every) for line in pair)
        train_vocabulary(lines, directory / JOINT_NAME, settings)
    else:
        train_vocabulary((source for source, _ in read_pairs(*files, every=every)), directory / SOURCE_NAME, settings)
        train_vocabulary((target for _, target in read_pairs(*files, every=every)), directory / TARGET_NAME, settings)
        (directory / JOINT_NAME).unlink(missing_ok=True)
    return load_vocabularies(directory)


def train_vocabulary(lines: Iterable[str], path: pathlib.Path, settings: VocabularySettings) -> None:
    """Makes one vocabulary of `lines` and writes it to `path`, whole or not at all.

    Raises:
      UserError: the text does not support the size, or the directory cannot be written.
    """
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(_SEED)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=settings.vocabulary_type,
            vocab_size=settings.vocabulary_size,
            character_coverage=settings.character_coverage,
            byte_fallback=settings.byte_fallback,
            normalization_rule_name=settings.normalization,
            input_sentence_size=settings.vocabulary_sentences,
            shuffle_input_sentence=True,
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=BEGIN_ID,
            eos_id=END_ID,
            minloglevel=_ERRORS_ONLY,
        )
    except RuntimeError as error:
        raise UserError(_explain(str(error), settings)) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable_files.replace(path, model.getvalue())
    except OSError as error:
        raise UserError(f"--vocabulary={path.parent}: cannot write the vocabulary: {error.strerror}.") from error


def _explain(message: str, settings: VocabularySettings) -> str:
    """The meaning of SentencePiece's `message` for the flags."""
    flag = f"--vocabulary_size={settings.vocabulary_size}"
    if match := re.search(r"size too high .* value <= (\d+)", message):
        return f"{flag}: this text supports at most {match[1]} pieces; give --vocabulary_size={match[1]} or more text."
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        remedy = f"give --vocabulary_size={match[1]} or more, or a lower --character_coverage"
        return f"{flag}: the characters of this text alone need {match[1]} pieces; {remedy}."
    if "!sentences_.empty()" in message:
        return "The training files have no text to make a vocabulary from: every line is empty."
    return f"SentencePiece cannot make this vocabulary: {message}"
