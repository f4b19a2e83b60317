"""Language codes: what catalogues write and what a user asks for."""

import collections
import re
from collections.abc import Collection, Iterable

from langcodes import Language, LanguageTagError, tag_distance

from tfnmt.errors import UserError

_CODE = re.compile("[A-Za-z]{2,3}(_[A-Za-z0-9]+)*")
_LISTED = 40
_NO_LANGUAGE = "zxx"
_SAME, _REGIONAL = 1, 5  # langcodes' distance of two names of one language, and the largest one of two regions


def parse_pair(languages: str) -> tuple[str, str]:
    """The two codes of "en-de", or of "en-pt_BR" where a code has a region, as they are written.

    Raises:
      UserError: there are not two different codes.
    """
    codes = [code.strip() for code in languages.split("-")]
    if len(codes) != 2 or not all(_CODE.fullmatch(code) for code in codes) or codes[0] == codes[1]:
        raise UserError(
            f"--languages={languages}: give two different codes joined by a hyphen, such as en-de; "
            "a region or script is joined by an underscore, such as en-pt_BR."
        )
    return codes[0], codes[1]


def find_code(wanted: str, codes: Collection[str]) -> str | None:
    """The one of a catalogue's `codes` that holds the language `wanted`, None when none does; in any spelling."""
    goal = _language(wanted)
    others = {code: other for code in codes if _comparable(goal, other := _language(code))}
    # Of several that are as near, the very code is best, and one without a region says more surely what it holds.
    keys = {
        code: (tag_distance(goal, other), other != goal, bool(other.territory), abs(len(code) - len(wanted)))
        for code, other in others.items()
    }
    ranking = sorted((*key, code) for code, key in keys.items())
    limit = _REGIONAL if wanted.isalpha() else _SAME
    near = [(distance, code) for distance, *_, code in ranking if distance <= limit]
    return near[0][1] if near and (near[0][0] <= _SAME or len(near) == 1) else None


def _language(code: str) -> Language:
    """The language of a code: one for "pt_BR" and "pt-br", one for "sr@latin" and "sr_Latn"; none for other texts."""
    code = re.sub("[@_-]latin", "-Latn", code.strip(), flags=re.IGNORECASE).replace("@", "-")
    try:
        # Where catalogues say "pt" alone they mean Portugal's, langcodes Brazil's.
        return Language.get("pt-PT" if code.lower() == "pt" else code)
    except LanguageTagError:
        return Language.get(_NO_LANGUAGE)


def _comparable(wanted: Language, other: Language) -> bool:
    """False where the script, the dialect or the form of address is another one."""
    return wanted.maximize().script == other.maximize().script and wanted.variants == other.variants


def listing(catalogues: Iterable[Collection[str]]) -> str:
    """The languages that most of the catalogues, each given by its codes, have, in the spelling of --languages."""
    counts = collections.Counter(code for codes in catalogues for code in {*map(_listed, codes)} - {_NO_LANGUAGE})
    common = sorted(code for code, _ in counts.most_common(_LISTED))
    rarer = len(counts) - len(common)
    return ", ".join(common) + (f" and {rarer} rarer ones" if rarer else "")


def _listed(code: str) -> str:
    """The code that stands for `code` in a listing: "de" for "de_DE", "zh" for "zh-Hans", "zh_Hant" for "zh_TW"."""
    language = _language(code)
    name = str(language.language)
    if not _comparable(_language(name), language):
        name = f"{name}_{language.maximize().script}"
    is_same = _comparable(_language(name), language) and tag_distance(_language(name), language) == 0
    return name if is_same else language.to_tag().replace("-", "_")


# The scripts of a language that is written in several at once, as regular expressions name them.
_MIXED = {"Jpan": r"\p{Han}\p{Hira}\p{Kana}", "Kore": r"\p{Hang}\p{Han}", "Hans": r"\p{Han}", "Hant": r"\p{Han}"}


def letters_of(code: str) -> str:
    """The letters of a language's scripts, as a set [...] for the package `regex`; empty when they are not known."""
    language = _language(code)
    full = language.maximize()
    # Where langcodes knows nothing about a language, it says what it says of English.
    if language.script is None and full.territory == "US" and full.language != "en":
        return ""
    script = full.script or ""
    return "[" + _MIXED.get(script, rf"\p{{{script}}}") + "]"
