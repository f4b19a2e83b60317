"""Language codes: what catalogues write and what a user asks for."""

import collections
import re
import unicodedata
from collections.abc import Collection, Iterable

from tfnmt.errors import UserError

# What a catalogue may call a language, best first, where the code alone does not say it.
_OTHER_NAMES = {
    "zh": ("zh-hans", "zh-cn", "zh-hans-cn", "zh-sg"),
    "zh-hant": ("zh-tw", "zh-hant-tw"),
    "no": ("nb", "nb-no", "no-no"),
    "nb": ("nb-no", "no"),
    "he": ("iw", "he-il"),
    "pt": ("pt-pt",),
    "sr": ("sr-cyrl", "sr-cyrl-rs", "sr-rs"),
    "sr-latn": ("sr-latn-rs",),
}
_CODE = re.compile("[A-Za-z]{2,3}(_[A-Za-z0-9]+)*")
_LISTED = 40


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


def normal_code(code: str) -> str:
    """One spelling for "pt_BR", "pt-br" and "sr@latin": lower case with hyphens."""
    return code.strip().lower().replace("_", "-").replace("@", "-").replace("latin", "latn")


def shown_code(code: str) -> str:
    """`code`, normal, as it is given to --languages and used in file names: "pt_BR", "zh_Hant"."""
    language, *parts = code.split("-")
    return "_".join([language, *(part.upper() if len(part) == 2 else part.capitalize() for part in parts)])


def find_code(wanted: str, codes: Collection[str]) -> str | None:
    """The one of `codes` that holds the language `wanted`, None when none does.

    Args:
      wanted: a code in any spelling.
      codes: codes as a catalogue writes them.
    """
    wanted = normal_code(wanted)
    spelled = {normal_code(code): code for code in sorted(codes)}
    names = (wanted, *_OTHER_NAMES.get(wanted, ()), f"{wanted}-{wanted}")
    for name in names:
        if name in spelled:
            return spelled[name]
    regional = [code for name, code in spelled.items() if _is_region_of(name, wanted)]
    return regional[0] if len(regional) == 1 else None


def _is_region_of(name: str, language: str) -> bool:
    """True for "ja-jp" of "ja": a country's code, not a script, dialect or form of address."""
    return name.startswith(f"{language}-") and len(name) == len(language) + 3


def listing(catalogues: Iterable[Collection[str]]) -> str:
    """The languages that most catalogues have, in the spelling that --languages takes.

    Args:
      catalogues: for each catalogue, the codes as it writes them.
    """
    counts = collections.Counter(code for codes in catalogues for code in {_listed(code) for code in codes})
    common = sorted(code for code, _ in counts.most_common(_LISTED))
    rarer = len(counts) - len(common)
    return ", ".join(common) + (f" and {rarer} rarer ones" if rarer else "")


def _listed(code: str) -> str:
    """The code that stands for `code` in a listing: "de" for "de_DE", "zh" for "zh-Hans"."""
    name = normal_code(code)
    for language, names in _OTHER_NAMES.items():
        if name in names and name not in _OTHER_NAMES:
            return shown_code(language)
    language, *parts = name.split("-")
    return language if parts == [language] else shown_code(name)


_SCRIPTS = {
    "CYRILLIC": "be bg kk ky mk mn ru sr tg uk",
    "GREEK": "el",
    "CJK HIRAGANA KATAKANA": "ja zh",
    "HANGUL": "ko",
    "HEBREW": "he yi",
    "ARABIC": "ar fa ps ur",
    "DEVANAGARI": "hi mr ne",
    "BENGALI": "bn",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "TAMIL": "ta",
    "TELUGU": "te",
    "MALAYALAM": "ml",
    "THAI": "th",
    "LATIN": "af ca cs cy da de en eo es et eu fi fr fy ga gl gsw hr hu id is it lb lt lv ms nb nl nn no pl pt ro sk "
    "sl sq sv tr vi",
}


def scripts_of(code: str) -> frozenset[str]:
    """Unicode's names of the scripts that the language is written in; empty when it is not known here."""
    language, *parts = normal_code(code).split("-")
    if "latn" in parts:
        return frozenset({"LATIN"})
    found = (scripts.split() for scripts, languages in _SCRIPTS.items() if language in languages.split())
    return frozenset(next(found, ()))


def script_of(character: str) -> str:
    """Unicode's name of the script of a letter: LATIN, CYRILLIC, CJK ..."""
    return unicodedata.name(character, "UNKNOWN").split(" ")[0]
