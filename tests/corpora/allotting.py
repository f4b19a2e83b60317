"""The steps of tfnmt-corpus over lists of pairs."""

import contextlib
import pathlib
import tempfile

from tfnmt.corpora.cleaning import Cleaning, CleaningSettings, normal_text, typical_ratio
from tfnmt.corpora.pairs import Pair
from tfnmt.corpora.splitting import FATES, TRAIN, Allotment, Examiner, SplittingSettings
from tfnmt.corpora.texts import ListedText


@contextlib.contextmanager
def _allotment(pairs, cleaning=None, minimum_words=4):
    text = ListedText(pairs)
    directory = pathlib.Path(tempfile.gettempdir())
    with contextlib.closing(Allotment(text, Examiner(cleaning, minimum_words), directory, 1)) as allotment:
        yield allotment


def _of(fate, pairs, allotment):
    return [pair for pair, its_fate in zip(pairs, allotment.allotted.fates, strict=True) if its_fate == fate]


def cleaned(pairs, languages=("en", "de"), **settings):
    """The pairs that cleaning keeps, in normal form, and the counts."""
    pairs = [Pair(*pair) for pair in pairs]
    rules = Cleaning(languages, CleaningSettings(**settings), typical_ratio(ListedText(pairs), 1))
    with _allotment(pairs, rules) as allotment:
        step = allotment.drop_unclean()
        kept = _of(TRAIN, pairs, allotment)
    return [Pair(normal_text(source), normal_text(target), origin) for source, target, origin in kept], step


def without_leaks(pairs, held_out):
    """The pairs that share nothing with those held out, and the counts."""
    with _allotment(pairs) as allotment:
        step = allotment.drop_leaks([ListedText(held_out)])
        return _of(TRAIN, pairs, allotment), step


def split(pairs, settings: SplittingSettings, *, held_out):
    """The splits by name, and the counts."""
    with _allotment(pairs, minimum_words=settings.minimum_words) as allotment:
        step = allotment.hold_out(held_out, settings)
        splits = {name: [pairs[row] for row in rows] for name, rows in allotment.allotted.held_out.items()}
        for name, each in splits.items():
            assert sorted(each) == sorted(_of(FATES.index(name), pairs, allotment))
        return splits | {"train": _of(TRAIN, pairs, allotment)}, step
