"""Sample translations for people to look at: as a table and as pictures of the attention."""

import io
import re
import warnings
from collections.abc import Sequence

import numpy as np

SPECIAL = re.compile(r"[\\`*_\[\]|<>&~#!$]")
"""Characters that Markdown or HTML would take for markup."""

SCRIPTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans", "Noto Sans Arabic")
"""Fonts for what matplotlib's own lacks; used where they are installed."""

LONGEST = 60  # pieces; the rest of a longer sentence is not drawn


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown whose cells show exactly their text; the first of a row is a name, and stays on one line."""
    lines: list[list[str]] = [
        list(heading),
        ["---"] * len(heading),
        *([_literal(str(cell)) for cell in row] for row in rows),
    ]
    for line in lines[2:]:
        line[0] = f"<pre>{line[0]}</pre>"  # TensorBoard lets every other text break within words
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def attention_picture(source_pieces: Sequence[str], target_pieces: Sequence[str], attention: np.ndarray) -> bytes:
    """Draws where each target piece looked, dark for much, from weights float [T, S]; a PNG file."""
    from matplotlib import rc_context  # a picture is drawn once in a while, and loading this takes a second
    from matplotlib.figure import Figure

    source_pieces, target_pieces = source_pieces[:LONGEST], target_pieces[:LONGEST]
    rows, columns = len(target_pieces), len(source_pieces)
    with rc_context({"font.family": _fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure = Figure(figsize=(1.5 + 0.25 * columns, 1.2 + 0.25 * rows), dpi=80, layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(attention[:rows, :columns], cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(columns), source_pieces, rotation=90, parse_math=False)
        axes.set_yticks(range(rows), target_pieces, parse_math=False)
        axes.xaxis.tick_top()
        content = io.BytesIO()
        figure.savefig(content, format="png")
    return content.getvalue()


def _literal(text: str) -> str:
    """`text` such that Markdown shows it as it is, on one line."""
    return SPECIAL.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))


def _fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in SCRIPTS if name in installed)]
