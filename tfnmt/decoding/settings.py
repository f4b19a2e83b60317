"""How sentences are translated."""

import dataclasses

from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The search for the best translations."""

    beam_size: int = setting(
        5, "Hypotheses kept alive for each sentence (K); 1 is greedy search.", minimum=1, may_change=True
    )
    length_penalty: float = setting(
        0.6,
        "Exponent a of the length penalty: a hypothesis of n tokens, end included, scores its log-probability divided "
        "by ((5 + n) / 6)^a. 0 compares plain log-probabilities; larger values give longer translations.",
        minimum=0,
        may_change=True,
    )
    nbest: int = setting(1, "Translations returned for each sentence, at most --beam_size.", minimum=1, may_change=True)
    max_length_factor: float = setting(
        2.0,
        "A translation has at most this many tokens for each source token, plus --max_length_constant.",
        minimum=0,
        may_change=True,
    )
    max_length_constant: int = setting(
        10,
        "Tokens that a translation may have beyond --max_length_factor times the source's.",
        minimum=1,
        may_change=True,
    )
    longest_source_tokens: int = setting(
        512,
        "Source sentences are cut to this many tokens before translation, with a warning.",
        minimum=2,
        may_change=True,
    )
    allow_unknown: bool = setting(False, "Let the unknown token appear in translations.", may_change=True)

    def faults(self) -> list[str]:
        """More translations than hypotheses."""
        if self.nbest <= self.beam_size:
            return []
        return [f"--nbest={self.nbest}: only --beam_size={self.beam_size} translations are kept; raise --beam_size."]


@dataclasses.dataclass(frozen=True)
class DecodingSettings(SearchSettings):
    """The search and its batches."""

    decoding_batch_sentences: int = setting(64, "Sentences translated at once, at most.", minimum=1, may_change=True)
    decoding_batch_positions: int = setting(
        4096,
        "Source positions, padding included, that are translated at once, at most.",
        minimum=1,
        may_change=True,
        formerly="decoding_batch_tokens",
    )
    concurrent_batches: int | None = setting(
        None, "Batches translated at the same time; empty for one a core, but two at least.", minimum=1, may_change=True
    )
