"""Reports and evaluations made by hand."""

import numpy as np

from tfnmt.engines.report import BlockReport, PushReport
from tfnmt.evaluation import Scores
from tfnmt.training.totals import Totals
from tfnmt.training.validation import Evaluation, Sample


def report(update: int, **changes) -> BlockReport:
    """A report whose numbers per token, per second and per position are easy to tell."""
    plain = BlockReport(
        update=update,
        epoch=0,
        loss=300.0,
        cross_entropy=200.0,
        target_tokens=100,
        source_tokens=80,
        positions=200,
        sentences=10,
        gradient_norm=1.0,
        learning_rate=0.001,
        seconds=2.0,
        data_wait_seconds=0.5,
    )
    return plain._replace(**changes)


def pushed(worker: int, **changes) -> PushReport:
    """What a report tells of one push."""
    facts = {"staleness": 0, "target_tokens": 100, "seconds": 2.0, "wait_seconds": 0.5, "bytes_pulled": 8}
    return PushReport(worker=worker, bytes_pushed=4, **{**facts, **changes})


def totals_of(reports) -> Totals:
    """The totals behind the last of `reports`."""
    return sum((Totals.of(each) for each in reports), Totals())


def evaluation(bleu: float = 30.0) -> Evaluation:
    """An evaluation with two samples."""
    attention = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], np.float32)
    samples = (
        Sample("a | b <b>*x*</b>", "c_d_e [f](g)", "h `i` $j$ & \\k", ("▁a", "|", "b"), ("▁h", "$i$"), attention),
        Sample("你好", "Grüß Gott", "hello", ("你", "好", "</s>"), ("▁hello", "</s>"), attention),
    )
    return Evaluation(2.5, 2.0, Scores(bleu, 55.0, 60.0, "signature of BLEU", "of chrF", "of TER", {}), samples)
