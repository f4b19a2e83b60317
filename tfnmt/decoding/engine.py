"""What translates lines: trained parameters, or an exported model."""

from collections.abc import Callable, Sequence

from tfnmt.decoding.ctranslate2_translator import CTranslate2Translator
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.translator import Hypothesis, Report

Translate = Callable[[Sequence[str], Report | None], list[list[Hypothesis]]]
"""(lines, report) -> the best translations of each line; see `Translator.translate`."""


def load_engine(trained: TrainedSettings, exported: str, decoding: DecodingSettings) -> tuple[list[str], Translate]:
    """The names of the models, and what translates with them: those in the folder `exported`, if there is one.

    Raises:
      UserError: something is missing, damaged, or does not fit together.
    """
    threads = trained.threads or None
    if exported:
        return [exported], CTranslate2Translator(exported, decoding, threads).translate
    models = load(trained)
    translator = models.translator(decoding)
    return models.names, lambda lines, report: translator.translate(models.vectors, lines, report=report)
