"""A small generated corpus: no downloads, the same on every machine."""

import gzip
import pathlib
import random
from collections.abc import Sequence

from tfnmt.data.files import TextPair

_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "wi", "zo")


def generated_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Pairs whose lengths vary and go together, each with its number in it, so that no two are equal."""
    random_numbers = random.Random(seed)

    def word() -> str:
        return "".join(random_numbers.choices(_SYLLABLES, k=random_numbers.randint(1, 3)))

    pairs = []
    for number in range(count):
        words = [word() for _ in range(random_numbers.randint(1, 12))]
        target = [each[::-1] for each in words] + [word()] * random_numbers.randint(0, 2)
        pairs.append((f"{number} {' '.join(words)}", f"{number} {' '.join(target)}"))
    return pairs


def write_pair(directory: pathlib.Path, name: str, pairs: Sequence[tuple[str, str]]) -> TextPair:
    """Writes two plain files."""
    for side, language in enumerate(("en", "de")):
        (directory / f"{name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in pairs), "utf-8")
    return TextPair(str(directory / f"{name}.en"), str(directory / f"{name}.de"))


def write_gzip_pair(directory: pathlib.Path, name: str, pairs: Sequence[tuple[str, str]]) -> TextPair:
    """Writes two gzip files."""
    paths = [str(directory / f"{name}.{language}.gz") for language in ("en", "de")]
    for side, path in enumerate(paths):
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(f"{pair[side]}\n" for pair in pairs)
    return TextPair(*paths)


def write_table(directory: pathlib.Path, name: str, pairs: Sequence[tuple[str, str]]) -> TextPair:
    """Writes one tab-separated file, with a third column that is nobody's."""
    path = directory / f"{name}.tsv"
    path.write_text("".join(f"{source}\t{target}\tnote\n" for source, target in pairs), "utf-8")
    return TextPair(str(path))
