"""BLEU, chrF and TER of raw text by sacreBLEU, with the signatures that make them comparable."""

import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from sacrebleu.metrics import BLEU, CHRF, TER

from tfnmt.errors import UserError

TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
"""Languages written without spaces between words, or with particles attached to them: sacreBLEU's tokenizers."""

_PACKAGES = {"ja-mecab": ("MeCab", "sacrebleu[ja]"), "ko-mecab": ("mecab_ko", "sacrebleu[ko]")}
_OTHER_LANGUAGES = "13a"
_BOOTSTRAP_SEED = 12345


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
        return {"bleu": self.bleu_signature, "chrf": self.chrf_signature, "ter": self.ter_signature}

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
    """Compares detokenized translations with raw references, sentence by sentence.

    The target language, such as "de" or "zh_Hant", decides how words are told apart. So many `bootstrap_samples` of the
    sentences give confidence intervals, and 0 none.

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
    metrics: list[Any] = [BLEU(tokenize=tokenizer), CHRF(), TER(normalized=is_asian, asian_support=is_asian)]
    statistics = [metric._extract_corpus_statistics(list(hypotheses), [list(references)]) for metric in metrics]
    bleu, chrf, ter = (float(metric._aggregate_and_compute(own).score) for metric, own in zip(metrics, statistics))
    signatures = tuple(metric.get_signature().format() for metric in metrics)
    intervals = {
        name: _interval(metric, np.array(own, np.float64), bootstrap_samples)
        for name, metric, own in zip(("bleu", "chrf", "ter"), metrics, statistics)
        if bootstrap_samples
    }
    return Scores(bleu, chrf, ter, signatures[0], signatures[1], signatures[2], intervals)


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


def _interval(metric: Any, statistics: np.ndarray, samples: int) -> tuple[float, float]:
    """The bounds that hold the middle 95% of the scores of so many resampled corpora.

    The statistics, float64 [sentences, numbers], are what sacreBLEU's metric sums over the sentences. Its own
    resampling gives a mean and half a width instead, and fails where a score is zero.
    """
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    sentences = len(statistics)
    sums = (statistics[generator.integers(sentences, size=sentences)].sum(axis=0) for _ in range(samples))
    scores = [float(metric._compute_score_from_stats(own.tolist()).score) for own in sums]
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
