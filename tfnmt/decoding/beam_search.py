"""Beam search as one graph loop over a model's `step`.

The beam of a sentence holds K live hypotheses. Each step takes the 2K best continuations; those among the first K that
end are finished, the K best that do not end live on. A sentence is done when
  - K of its hypotheses have finished, or
  - nothing alive can still beat what finished: log-probabilities only fall, so a live hypothesis scores at most
    log p / length_penalty(limit), with the sentence's own length limit, or
  - that limit is reached; its last token can only be END_ID.
Every decision depends on the sentence alone, never on its neighbours in the batch or on padding. Sentences that are
done leave the batch as soon as they are a quarter of it.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfnmt.batch import BEGIN_ID, PAD_ID
from tfnmt.decoding.candidates import IMPOSSIBLE, Candidates, best_candidates, ending, going_on, length_penalty
from tfnmt.decoding.ensemble import Ensemble
from tfnmt.decoding.settings import SearchSettings
from tfnmt.models.base import Model, Nest

SPACE = "▁"  # as SentencePiece writes it
DONE_SHARE = 0.25  # of the batch; below it, copying the others costs more than computing the done ones in vain


Decoder = Model | Ensemble
"""Both encode, start and step. An ensemble's views are a sequence of views."""


class Hypotheses(NamedTuple):
    """N hypotheses for each sentence, best first. During the search ids and attention have BEGIN_ID's place too."""

    ids: tf.Tensor  # int32 [B, N, T], END_ID included when finished, filled up with PAD_ID
    scores: tf.Tensor  # float32 [B, N]: log-probability, divided by the length penalty when finished; or -infinity
    attention: tf.Tensor  # float32 [B, N, T, S]; T is 0 unless attention was asked for
    texts: tf.Tensor  # string [B, N]: the pieces joined, during the search; [B, 0] unless texts have to differ


class Search(NamedTuple):
    """The state of the loop."""

    step: tf.Tensor  # int32 scalar: tokens chosen so far
    places: tf.Tensor  # int32 [B]: each sentence's row in the output
    limits: tf.Tensor  # int32 [B]: most tokens of a translation, END_ID included
    done: tf.Tensor  # bool [B]
    endings: tf.Tensor  # int32 [B]: hypotheses finished so far, or their texts where these have to differ
    live: Hypotheses  # K of them
    finished: Hypotheses  # the N best
    memory: Nest  # first dimension B
    cache: Nest  # first dimensions [B, K]
    output: Hypotheses  # as `finished`, for the whole batch


def beam_search(
    model: Decoder,
    views: Any,
    source_ids: tf.Tensor,
    settings: SearchSettings,
    with_attention: bool = False,
    pieces: tf.Tensor | None = None,
) -> Hypotheses:
    """The N best translations of each sentence; to be called inside a graph.

    Several sequences of pieces may spell one text. Given the `pieces`, the search keeps the best of them alone, and
    counts them as one, so that it goes on until it has N texts.

    Args:
      model: the model, or an `Ensemble`.
      views: its parameters.
      source_ids: int32 [B, S], B at least 1; ending with END_ID and filled up with PAD_ID.
      settings: beam size, length penalty, N and limits.
      with_attention: whether to keep the attention.
      pieces: string [V], the text of each piece; None where translations of the same text may stand side by side.
    """

    def go_on(search: Search) -> tf.Tensor:
        return tf.logical_not(tf.reduce_all(search.done))

    def advance(search: Search) -> tuple[Search]:
        search, parents = _advance(model, views, search, settings, with_attention, pieces)
        return (_reorder(search, parents),)

    search = _begin(model, views, source_ids, settings, with_attention, with_texts=pieces is not None)
    (search,) = tf.while_loop(go_on, advance, (search,), (_loose_shapes(search),), parallel_iterations=1)
    best = _deliver(search)
    return best._replace(ids=best.ids[:, :, 1:], attention=best.attention[:, :, 1:])


def length_limits(source_ids: tf.Tensor, settings: SearchSettings) -> tf.Tensor:
    """int32 [B]: the most tokens, END_ID included, that each sentence's translation may have."""
    lengths = tf.math.count_nonzero(tf.not_equal(source_ids, PAD_ID), axis=1, dtype=tf.int32)
    return tf.cast(settings.max_length_factor * tf.cast(lengths, tf.float32), tf.int32) + settings.max_length_constant


def _begin(
    model: Decoder,
    views: Any,
    source_ids: tf.Tensor,
    settings: SearchSettings,
    with_attention: bool,
    with_texts: bool,
) -> Search:
    batch, source_length = tf.unstack(tf.shape(source_ids))
    limits = length_limits(source_ids, settings)
    longest = tf.reduce_max(limits)
    memory = model.encode(views, source_ids)

    def hypotheses(count: int) -> Hypotheses:
        return Hypotheses(
            ids=tf.fill([batch, count, 1], BEGIN_ID),
            scores=tf.fill([batch, count], IMPOSSIBLE),
            attention=tf.zeros([batch, count, 1, source_length]),
            texts=tf.fill([batch, count if with_texts else 0], ""),
        )

    # All K hypotheses begin alike, so that only the first may be continued.
    first_alone = tf.where(tf.range(settings.beam_size) == 0, 0.0, IMPOSSIBLE)
    live = hypotheses(settings.beam_size)
    rows = longest + 1 if with_attention else 1
    return Search(
        step=tf.constant(0),
        places=tf.range(batch),
        limits=limits,
        done=tf.zeros([batch], tf.bool),
        endings=tf.zeros([batch], tf.int32),
        live=live._replace(scores=tf.tile(first_alone[None, :], [batch, 1])),
        finished=hypotheses(settings.nbest),
        memory=memory,
        cache=model.start(views, memory, settings.beam_size, longest),
        output=_fill_up(hypotheses(settings.nbest), longest + 1, rows),
    )


def _loose_shapes(search: Search) -> Search:
    """Shape invariants: the batch shrinks, hypotheses grow, and so may a cache along all but its last dimension."""

    def loose(tensor: tf.Tensor, fixed: tuple[int, ...]) -> tf.TensorShape:
        return tf.TensorShape([size if axis in fixed else None for axis, size in enumerate(tensor.shape)])

    def all_of(nest: Nest, rule) -> Nest:
        return tf.nest.map_structure(lambda tensor: loose(tensor, rule(tensor.shape.rank)), nest)

    shapes = all_of(search, lambda rank: (1,))
    return shapes._replace(
        memory=all_of(search.memory, lambda rank: tuple(range(1, rank))),
        cache=all_of(search.cache, lambda rank: (1, rank - 1)),
    )


def _advance(
    model: Decoder,
    views: Any,
    search: Search,
    settings: SearchSettings,
    with_attention: bool,
    pieces: tf.Tensor | None,
) -> tuple[Search, tf.Tensor]:
    """The search one token further, its cache not yet reordered, and the parents [B, K] to reorder it by."""
    previous_ids = search.live.ids[:, :, -1]
    logits, cache, attention = model.step(views, search.memory, search.cache, previous_ids, search.step)
    logits = tf.ensure_shape(logits, [None, settings.beam_size, None])
    attention = attention if with_attention else None

    length = search.step + 1
    must_end = length >= search.limits
    candidates = best_candidates(search.live.scores, logits, must_end, settings.allow_unknown)
    ended = ending(candidates, settings.beam_size)
    alive = going_on(candidates, settings.beam_size)
    penalized = ended.log_probabilities / length_penalty(length, settings.length_penalty)
    finished, more = _best_of_both(search.finished, _extend(search.live, ended, penalized, attention, pieces))
    endings = search.endings + more
    hope = alive.log_probabilities[:, 0] / length_penalty(search.limits, settings.length_penalty)
    done = search.done | must_end | (endings >= settings.beam_size) | (hope <= finished.scores[:, -1])
    # A sentence that is done but still in the batch has nothing alive, so that nothing of it can finish any more.
    scores = tf.where(done[:, None], IMPOSSIBLE, alive.log_probabilities)
    live = _extend(search.live, alive, scores, attention, pieces)
    search = search._replace(step=length, done=done, endings=endings, live=live, finished=finished, cache=cache)
    return search, alive.parents


def _extend(
    hypotheses: Hypotheses,
    chosen: Candidates,
    scores: tf.Tensor,
    attention: tf.Tensor | None,
    pieces: tf.Tensor | None,
) -> Hypotheses:
    """The hypotheses continued by the chosen candidates."""
    ids, rows = (tf.gather(kept, chosen.parents, batch_dims=1) for kept in (hypotheses.ids, hypotheses.attention))
    if attention is not None:
        rows = tf.concat([rows, tf.gather(attention, chosen.parents, batch_dims=1)[:, :, None, :]], axis=2)
    texts = hypotheses.texts
    if pieces is not None:
        texts = tf.gather(texts, chosen.parents, batch_dims=1) + tf.gather(pieces, chosen.tokens)
    return Hypotheses(tf.concat([ids, chosen.tokens[:, :, None]], axis=2), scores, rows, texts)


def _best_of_both(finished: Hypotheses, ended: Hypotheses) -> tuple[Hypotheses, tf.Tensor]:
    """The N best of those that finished before and now, the earlier one where two are equal; how many are new [B]."""
    finished = _fill_up(finished, tf.shape(ended.ids)[2], tf.shape(ended.attention)[2])
    both = Hypotheses(*(tf.concat(pair, axis=1) for pair in zip(finished, ended)))
    scores = tf.where(_is_repeated(both), IMPOSSIBLE, both.scores) if both.texts.shape[1] else both.scores
    best, places = tf.math.top_k(scores, finished.scores.shape[1])
    ids, attention = (tf.gather(kept, places, batch_dims=1) for kept in (both.ids, both.attention))
    texts = tf.gather(both.texts, places, batch_dims=1) if both.texts.shape[1] else both.texts
    return Hypotheses(ids, best, attention, texts), _count(scores) - _count(finished.scores)


def _is_repeated(hypotheses: Hypotheses) -> tf.Tensor:
    """bool [B, N]: whether another one has the same text and scores higher, or stands first where both score alike.

    Spaces at the beginning, which detokenization drops, and at the end, which nobody sees, are no part of the text.
    """
    texts, scores = tf.strings.regex_replace(hypotheses.texts, f"^{SPACE}+|{SPACE}+$", ""), hypotheses.scores
    mine, other = scores[:, :, None], scores[:, None, :]
    places = tf.range(scores.shape[1])
    is_better = (other > mine) | ((other == mine) & tf.math.is_finite(other) & (places < places[:, None]))
    return tf.reduce_any(tf.equal(texts[:, :, None], texts[:, None, :]) & is_better, axis=2)


def _count(scores: tf.Tensor) -> tf.Tensor:
    """int32 [B]: how many of the hypotheses there are."""
    return tf.math.count_nonzero(tf.math.is_finite(scores), axis=1, dtype=tf.int32)


def _fill_up(hypotheses: Hypotheses, length: tf.Tensor, rows: tf.Tensor) -> Hypotheses:
    """The hypotheses with ids filled up to `length` and attention to `rows`."""
    more_ids = length - tf.shape(hypotheses.ids)[2]
    more_rows = rows - tf.shape(hypotheses.attention)[2]
    return hypotheses._replace(
        ids=tf.pad(hypotheses.ids, [[0, 0], [0, 0], [0, more_ids]], constant_values=PAD_ID),
        attention=tf.pad(hypotheses.attention, [[0, 0], [0, 0], [0, more_rows], [0, 0]]),
    )


def _reorder(search: Search, parents: tf.Tensor) -> Search:
    """Moves each live hypothesis's cache to its new place, without the done sentences when dropping them pays."""
    sentences = tf.shape(search.done)[0]
    done = tf.math.count_nonzero(search.done, dtype=tf.int32)
    pays = (tf.cast(done, tf.float32) >= DONE_SHARE * tf.cast(sentences, tf.float32)) & (done < sentences)

    def drop() -> tuple[tf.Tensor, Nest, Hypotheses]:
        rows = tf.cast(tf.where(tf.logical_not(search.done))[:, 0], tf.int32)
        return rows, _rows(search.memory, rows), _deliver(search)

    rows, memory, output = tf.cond(pays, drop, lambda: (tf.range(sentences), search.memory, search.output))
    parents = tf.gather(parents, rows)
    if parents.shape[1] == 1:
        cache = tf.cond(pays, lambda: _hypotheses(search.cache, rows, parents), lambda: search.cache)
    else:
        cache = _hypotheses(search.cache, rows, parents)
    by_sentence = (search.places, search.limits, search.done, search.endings, search.live, search.finished)
    places, limits, done, endings, live, finished = _rows(by_sentence, rows)
    return Search(search.step, places, limits, done, endings, live, finished, memory, cache, output)


def _rows(nest: Nest, rows: tf.Tensor) -> Nest:
    """The `rows` of tensors whose first dimension is B."""
    return tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), nest)


def _hypotheses(nest: Nest, rows: tf.Tensor, parents: tf.Tensor) -> Nest:
    """The hypotheses `parents` [B', K] of the sentences `rows` [B'] of tensors whose first dimensions are [B, K]."""
    beams = parents.shape[1]
    flat_places = rows[:, None] * beams + parents

    def pick(tensor: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(tensor, tf.concat([[-1], tf.shape(tensor)[2:]], axis=0))
        return tf.gather(flat, flat_places)

    return tf.nest.map_structure(pick, nest)


def _deliver(search: Search) -> Hypotheses:
    """The output, into whose rows goes what has finished so far."""
    places = search.places[:, None]
    output = search.output
    finished = _fill_up(search.finished, tf.shape(output.ids)[2], tf.shape(output.attention)[2])
    moved = {name: getattr(finished, name) for name in ("ids", "scores", "attention")}  # Texts serve the search alone.
    return output._replace(
        **{name: tf.tensor_scatter_nd_update(getattr(output, name), places, new) for name, new in moved.items()}
    )
