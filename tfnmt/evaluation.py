"""BLEU, chrF and TER of raw text by sacreBLEU, with the signatures that make them comparable."""

import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import logging
from sacrebleu.metrics import BLEU, CHRF, TER

from tfnmt.errors import UserError

TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
"""Languages written without spaces between words, or with particles attached to them: sacreBLEU's tokenizers."""

_PACKAGES = {
    "ja-mecab": ("MeCab", "sacrebleu[ja]"),
    "ko-mecab": ("mecab_ko", "sacrebleu[ko]"),
}
_OTHER_LANGUAGES = "13a"


class Scores(NamedTuple):
    """The quality of translations in percent, each with its signature."""

    bleu: float
    chrf: float
    ter: float  # edits per reference word: lower is better, and above 100 is possible
    bleu_signature: str
    chrf_signature: str
    ter_signature: str
    intervals: dict[str, tuple[float, float]]  # metric -> bounds that hold 95% of the bootstrap's scores

    def signatures(self) -> dict[str, str]:
        """Metric -> signature."""
        return {
            "bleu": self.bleu_signature,
            "chrf": self.chrf_signature,
            "ter": self.ter_signature,
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON values; the intervals are left out when there are none."""
        values = self._asdict()
        intervals = {name: list(bounds) for name, bounds in values.pop("intervals").items()}
        return values | ({"intervals": intervals} if intervals else {})

    def __str__(self) -> str:
        """One line for each metric."""
        lines = []
        for name, signature in self.signatures().items():
            low, high = self.intervals.get(name, (None, None))
            interval = "" if low is None else f" (95% between {low:.2f} and {high:.2f})"
            title = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER"}[name]
            lines.append(f"{title:<5}{getattr(self, name):6.2f}{interval}  {signature}")
        return "\n".join(lines)


def evaluate(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    target_language: str | None = None,
    bootstrap_samples: int = 0,
) -> Scores:
    """Compares translations with references, sentence by sentence.

    Args:
      hypotheses: detokenized translations.
      references: raw reference text.
      target_language: such as "de" or "zh_Hant"; it decides how words are told apart.
      bootstrap_samples: resamplings of the sentences for confidence intervals; 0 for none.

    Raises:
      UserError: there are no sentences, or not as many translations as references.
    """
    if len(hypotheses) != len(references):
        raise UserError(
            f"There are {len(hypotheses):,} translations and {len(references):,} references: line n of one must belong "
            "to line n of the other."
        )
    if not references:
        raise UserError("There are no sentences to evaluate.")
    tokenizer = tokenizer_for(target_language)
    is_asian = tokenizer != _OTHER_LANGUAGES
    metrics = [
        BLEU(tokenize=tokenizer),
        CHRF(),
        TER(normalized=is_asian, asian_support=is_asian),
    ]
    results = [
        metric.corpus_score(list(hypotheses), [list(references)], n_bootstrap=max(bootstrap_samples, 1))
        for metric in metrics
    ]
    signatures = [metric.get_signature().format() for metric in metrics]
    return Scores(
        *(result.score for result in results),
        *signatures,
        _intervals(results, bootstrap_samples),
    )


def tokenizer_for(language: str | None) -> str:
    """sacreBLEU's tokenizer for BLEU in `language`; single characters where the proper one is not installed."""
    name = TOKENIZERS.get((language or "").replace("-", "_").split("_")[0].lower(), _OTHER_LANGUAGES)
    module, package = _PACKAGES.get(name, (None, None))
    if module is None or importlib.util.find_spec(module):
        return name
    logging.log_first_n(
        logging.WARNING,
        "BLEU counts single characters: words in language %s need pip install '%s'.",
        1,
        *(language, package),
    )
    return "char"


def _intervals(results: Sequence[Any], bootstrap_samples: int) -> dict[str, tuple[float, float]]:
    if bootstrap_samples < 2:
        return {}
    middles_and_halves = [(result._mean, result._ci) for result in results]
    return {
        name: (middle - half, middle + half)
        for name, (middle, half) in zip(("bleu", "chrf", "ter"), middles_and_halves)
    }
