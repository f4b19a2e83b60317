"""Writes a corpus: two text files for each split, and corpus.json, which says what they are."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfnmt import durable_files
from tfnmt.corpora.splitting import Splits
from tfnmt.data.corpus import DESCRIPTION
from tfnmt.errors import UserError


def write_corpus(directory: Path, languages: tuple[str, str], splits: Splits, facts: Mapping[str, Any]) -> None:
    """Writes train.en, train.de and so on; corpus.json comes last, so that it vouches for complete files.

    The directory is created when missing, and files of these names in it are replaced. `facts` go into corpus.json.

    Raises:
      UserError: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / DESCRIPTION).unlink(missing_ok=True)
        files = {}
        for name in sorted(splits):
            for side, language in enumerate(languages):
                content = "".join(f"{pair[side]}\n" for pair in splits[name]).encode()
                files[f"{name}.{language}"] = _described(content)
                durable_files.replace(directory / f"{name}.{language}", content)
        text = json.dumps({**facts, "files": files}, indent=2, ensure_ascii=False)
        durable_files.replace(directory / DESCRIPTION, f"{text}\n".encode())
    except OSError as error:
        raise UserError(
            f"--output={directory}: {error.strerror or error}; name a directory that can be written."
        ) from error


def _described(content: bytes) -> dict[str, int | str]:
    return {"lines": content.count(b"\n"), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
