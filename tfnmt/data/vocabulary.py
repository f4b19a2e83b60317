"""A SentencePiece vocabulary, used in the graph by training, decoding and export alike."""

import hashlib
import pathlib

import sentencepiece
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from tfnmt import runtime
from tfnmt.batch import BEGIN_ID, END_ID, PAD_ID, UNKNOWN_ID
from tfnmt.errors import UserError

with runtime.without_keras():
    import tensorflow_text as tf_text

JOINT_NAME = "vocabulary.model"
SOURCE_NAME = "vocabulary.source.model"
TARGET_NAME = "vocabulary.target.model"


class Vocabulary:
    """The pieces of one SentencePiece model.

    The model's bytes are read once and travel inside every graph that tokenizes, so that a dataset or an exported
    function works in another process, where the file may not exist.

    Attributes:
      model: the serialized SentencePiece model.
      size: number of pieces V, the special ones included.
    """

    def __init__(self, model_path: str | pathlib.Path):
        """Reads the model at `model_path`.

        Raises:
          UserError: the file cannot be read, is no SentencePiece model or numbers its special pieces otherwise.
        """
        self.path = str(model_path)
        try:
            self.model = pathlib.Path(model_path).read_bytes()
        except OSError as error:
            raise UserError(f"{self.path}: cannot read this vocabulary: {error.strerror}.") from error
        self._processor = _load(self.path, self.model)
        self.size = self._processor.vocab_size()
        self._tokenize_eagerly = tf.function(self.tokenize, reduce_retracing=True, autograph=False)
        self._detokenize_eagerly = tf.function(self.detokenize, reduce_retracing=True, autograph=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model: equal for equal vocabularies, wherever they are stored."""
        return hashlib.sha256(self.model).hexdigest()

    def pieces(self) -> list[str]:
        """The text of every piece, in the order of the ids."""
        return [self._processor.id_to_piece(index) for index in range(self.size)]

    def texts(self) -> list[bytes]:
        """The bytes that every piece adds to a text, in the order of the ids, with a mark for each space.

        Pieces that spell a byte are that byte, special ones nothing.
        """
        return [self._text_of(index) for index in range(self.size)]

    def _text_of(self, index: int) -> bytes:
        if self._processor.is_control(index):
            return b""
        piece = self._processor.id_to_piece(index)
        return bytes([int(piece[1:-1], 16)]) if self._processor.is_byte(index) else piece.encode()

    def segment(self, line: str) -> list[str]:
        """The pieces that `line` is cut into, END left out."""
        return self._processor.encode(line, out_type=str)

    def tokenize(self, lines: tf.Tensor, nbest: int = 0, alpha: float = 1.0) -> tf.RaggedTensor:
        """Cuts lines into pieces, in the graph.

        Subword sampling cuts a line differently each time. tensorflow-text draws it from a generator that cannot be
        seeded, so runs that sample are not repeatable bit by bit.

        Args:
          lines: UTF-8 strings [B].
          nbest: 0 for the best segmentation; above 1 samples among so many best ones; -1 among all.
          alpha: smoothing of the sampling; the lower, the more even.

        Returns:
          int32 ids [B, None], each row ended by END_ID.
        """
        if tf.executing_eagerly():
            return self._tokenize_eagerly(lines, nbest, alpha)
        return self._tokenizer(nbest, alpha).tokenize(lines)

    def detokenize(self, ids: tf.Tensor) -> tf.Tensor:
        """Joins pieces, int32 [B, T], into text, UTF-8 strings [B], in the graph.

        What stands behind the first END_ID is ignored, and so are PAD_ID and BEGIN_ID.
        """
        if tf.executing_eagerly():
            return self._detokenize_eagerly(ids)
        before_end = tf.equal(tf.cumsum(tf.cast(tf.equal(ids, END_ID), tf.int32), axis=1), 0)
        is_text = before_end & tf.not_equal(ids, PAD_ID) & tf.not_equal(ids, BEGIN_ID)
        return self._tokenizer().detokenize(tf.ragged.boolean_mask(tf.cast(ids, tf.int32), is_text))

    def require_sampling(self, nbest: int) -> None:
        """Refuses a kind of subword sampling that this vocabulary cannot do and would leave undone in silence.

        Raises:
          UserError: the model is of a type, such as bpe, without a list of best segmentations.
        """
        if nbest > 1 and not self._is_unigram():
            raise UserError(
                f"--subword_nbest={nbest}: {self.path} is no unigram vocabulary, so it has no best segmentations to "
                "sample among; give --subword_nbest=-1, and the share of merges to leave out as --subword_alpha."
            )

    def _is_unigram(self) -> bool:
        trainer = sentencepiece_model_pb2.ModelProto.FromString(self.model).trainer_spec  # type: ignore[attr-defined]
        return trainer.model_type == trainer.UNIGRAM

    def _tokenizer(self, nbest: int = 0, alpha: float = 1.0) -> tf_text.SentencepieceTokenizer:
        # An op of the graph that uses it. A tokenizer made eagerly would tie that graph to this process, and it
        # vanishes when TensorFlow drops its kernels, as `tf.random.set_seed` makes it do.
        return tf_text.SentencepieceTokenizer(self.model, nbest_size=nbest, alpha=alpha, add_eos=True)


def load_vocabularies(directory: str | pathlib.Path) -> tuple[Vocabulary, Vocabulary]:
    """The source and the target vocabulary in `directory`: one object twice if they are joint.

    Raises:
      UserError: they are missing or unreadable.
    """
    if not directory:
        raise UserError("--vocabulary is missing: name the directory that tfnmt-vocabulary has made, or --data.")
    directory = pathlib.Path(directory)
    if (directory / JOINT_NAME).exists():
        joint = Vocabulary(directory / JOINT_NAME)
        return joint, joint
    missing = [name for name in (SOURCE_NAME, TARGET_NAME) if not (directory / name).exists()]
    if missing:
        wanted = f"{JOINT_NAME}, or {SOURCE_NAME} and {TARGET_NAME}"
        raise UserError(f"--vocabulary={directory}: found no {' and no '.join(missing)}. It must hold {wanted}.")
    return Vocabulary(directory / SOURCE_NAME), Vocabulary(directory / TARGET_NAME)


def _load(path: str, model: bytes) -> sentencepiece.SentencePieceProcessor:
    remedy = "Make one with tfnmt-vocabulary."
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = bool(model) and processor.LoadFromSerializedProto(model)
    except RuntimeError:
        loaded = False
    if not loaded:
        raise UserError(f"{path}: this is not a SentencePiece model. {remedy}")
    special_ids = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
    wanted = (PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID)
    if special_ids != wanted:
        raise UserError(f"{path}: the ids of pad, unk, bos and eos must be {wanted}, and are {special_ids}. {remedy}")
    return processor
