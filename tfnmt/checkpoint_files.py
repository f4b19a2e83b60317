"""One checkpoint as a directory of files, and the manifest that tells whether they are still what was written.

parameters.safetensors     the named parameters
state.<slot>.safetensors   one file for each slot of training state, such as adam_m or average
progress.json              counters, reader position, best scores
manifest.json              size and SHA-256 of each of the files above; written last
"""

import dataclasses
import json
import re
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from tfnmt import durable_files
from tfnmt.durable_files import Fingerprint, Piece

FORMAT = 1
MANIFEST, PARAMETERS, PROGRESS = "manifest.json", "parameters.safetensors", "progress.json"
STATE = re.compile(r"state\.(.+)\.safetensors")
DTYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64"}

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """All that training needs in order to go on as if it had never stopped."""

    update: int  # server updates so far
    parameters: Arrays
    state: Mapping[str, Arrays]  # slot name, such as "adam_m" or "average" -> named arrays
    progress: dict[str, Any]  # JSON values: counters, reader position, best scores


class DamagedError(Exception):
    """A checkpoint's files are not what was written."""


def size_bytes(checkpoint: Checkpoint) -> int:
    """Room that the arrays take on the disk; the rest is negligible."""
    return sum(
        array.nbytes for arrays in (checkpoint.parameters, *checkpoint.state.values()) for array in arrays.values()
    )


def write(directory: Path, checkpoint: Checkpoint) -> None:
    """Writes `checkpoint` into the new directory `directory` and reads it back.

    Raises:
      DamagedError: what was read is not what was written.
      OSError: the disk is full or fails.
    """
    directory.mkdir()
    fingerprints = {
        name: dataclasses.asdict(durable_files.write(directory / name, pieces))
        for name, pieces in _contents(checkpoint)
    }
    manifest = {"format": FORMAT, "files": fingerprints}
    durable_files.write(directory / MANIFEST, [_json(manifest)])
    durable_files.sync_directory(directory)
    verify(directory)


def read(directory: Path, slots: Container[str] | None = None) -> Checkpoint:
    """Reads the checkpoint in `directory` after verifying it; of the state only these `slots`, or all for None.

    Raises:
      DamagedError: a file is missing, damaged or of an unknown format.
    """
    slots_of_files = {name: match[1] for name in verify(directory)["files"] if (match := STATE.fullmatch(name))}
    try:
        progress = json.loads((directory / PROGRESS).read_bytes())
        parameters = safetensors.numpy.load_file(directory / PARAMETERS)
        state = {
            slot: safetensors.numpy.load_file(directory / name)
            for name, slot in slots_of_files.items()
            if slots is None or slot in slots
        }
    except OSError as error:
        raise DamagedError(f"{directory} cannot be read ({error})") from error
    return Checkpoint(progress["update"], parameters, state, progress["progress"])


def verify(directory: Path) -> dict[str, Any]:
    """Compares every file with the manifest, and returns the manifest.

    Raises:
      DamagedError: naming the first file that is missing, damaged or of an unknown format.
    """
    manifest = _read_manifest(directory / MANIFEST)
    for name, expected in manifest["files"].items():
        _verify_file(directory / name, Fingerprint(**expected))
    return manifest


def _verify_file(path: Path, expected: Fingerprint) -> None:
    try:
        present = durable_files.fingerprint(path)
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror})") from error
    if present.bytes != expected.bytes:
        raise DamagedError(f"{path} has {present.bytes:,} bytes instead of {expected.bytes:,}")
    if present != expected:
        raise DamagedError(f"{path} does not have the SHA-256 that was written: its content changed")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] > FORMAT:
            raise DamagedError(f"{path} has format {manifest['format']}, made by a newer version of tfnmt")
        if {PARAMETERS, PROGRESS} <= manifest["files"].keys():
            return manifest
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DamagedError(f"{path} is not a manifest")


def _contents(checkpoint: Checkpoint) -> Iterator[tuple[str, Iterable[Piece]]]:
    """File name and content of everything but the manifest."""
    yield PARAMETERS, _safetensors(checkpoint.parameters)
    for slot, arrays in checkpoint.state.items():
        yield f"state.{slot}.safetensors", _safetensors(arrays)
    yield PROGRESS, [_json({"update": checkpoint.update, "progress": checkpoint.progress})]


def _safetensors(arrays: Arrays) -> Iterator[Piece]:
    """The safetensors format, straight from the arrays' memory; the library's writer copies all of them first."""
    header, offset = {}, 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for array in arrays.values():
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _json(value: Any) -> bytes:
    """Readable JSON; NumPy's numbers become Python's."""
    return json.dumps(value, indent=1, default=lambda number: number.item()).encode()
