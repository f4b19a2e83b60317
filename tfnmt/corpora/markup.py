"""Marks inside the texts of user interfaces: some are taken off, pairs with others are dropped."""

import re

from tfnmt.corpora.pairs import PLACEHOLDER, replace_placeholders

_MARKDOWN = (
    re.compile(r"[\[【]([^\[\]【】]+)[\]】]\([^()]*\)"),  # [text](address)
    re.compile(r"\*\*([^*]+)\*\*"),  # **bold**
    re.compile(r"(?<!`)`([^`]+)`(?!`)"),  # `code`
)

_MARKUP = re.compile(
    r"</?[A-Za-z!][^<>]*>"  # HTML and its like
    r"|&(?:[a-z]+|#\d+);"  # entities
    r"|\]\(|\[%|`|\*\*|\{%|:[a-z]+:"  # rests of Markdown, references, template blocks, roles
    r"|\\[nrt\"]"  # escapes that were meant to be resolved
    r"|\w[|]\w"  # alternatives or context in one text
)
_SIGN = re.compile(r"[<&\[\]`*{:\\|]")  # one of them is in all markup; texts without any are told at a glance


def strip_markdown(text: str) -> str:
    """`text` with the words of its links, emphasis and code, but without their marks."""
    for mark in _MARKDOWN:
        text = mark.sub(r"\1", text)
    return text


def strip_accelerator(text: str, mark: str) -> str:
    """`text` without the mark before the underlined letter of a menu entry, as in "_Save" and "保存(_S)".

    Texts with several marks before letters are left alone: there the mark is a character like any other.
    """
    if not mark:
        return text
    text = re.sub(rf"\s*\({re.escape(mark)}\w\)", "", text)
    if text.count(mark) != 1 or mark in "".join(PLACEHOLDER.findall(text)):
        return text
    return re.sub(rf"{re.escape(mark)}(?=\w)", "", text)


def has_markup(text: str) -> bool:
    """True too where braces are left without the placeholders, as in "{n, plural, one {# day} other {# days}}"."""
    if _SIGN.search(text) and _MARKUP.search(text):
        return True
    rest = replace_placeholders(text, "")
    return "{" in rest or "}" in rest
