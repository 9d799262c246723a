"""`gpt_oss_stories.json`: what an exported directory says about itself beyond what its format can hold.

It keeps the vocabulary and the origin of the model, and checksums by which damage is noticed. Other programs ignore it.
Layout of version 1:

    format        "gpt_oss_stories.export"
    version       1
    layout        "huggingface" or "openai"
    program       version of the program that wrote it
    vocabulary    Vocabulary.to_dict()
    provenance    plain values: how, when and on what the model was trained
    notes         lines about what was left out or changed
    files         name -> {"bytes": size, "sha256": of all of it, "header_sha256": of a safetensors file's header}
    checksum      SHA-256 of everything above
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import sha256_of_file, write_text_atomically
from ..tokenization import Vocabulary, vocabulary_from_dict
from .configs import FormatError
from .tensor_files import header_size, read_json

MANIFEST_FILE = "gpt_oss_stories.json"
FORMAT = "gpt_oss_stories.export"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What `gpt_oss_stories.json` says."""

    layout: str
    vocabulary: Vocabulary
    provenance: dict[str, Any]
    notes: tuple[str, ...]
    files: dict[str, dict[str, Any]]


def write_manifest(
    directory: Path, layout: str, vocabulary: Vocabulary, provenance: Mapping[str, Any], notes: Sequence[str]
) -> None:
    """Describe the files that are in `directory` now."""
    files = {}
    for path in sorted(directory.iterdir()):
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        if path.suffix == ".safetensors":
            files[path.name]["header_sha256"] = _header_sha256(path)
    contents = {
        "format": FORMAT,
        "version": VERSION,
        "layout": layout,
        "program": __version__,
        "vocabulary": vocabulary.to_dict(),
        "provenance": dict(provenance),
        "notes": list(notes),
        "files": files,
    }
    contents["checksum"] = _checksum(contents)
    write_text_atomically(directory / MANIFEST_FILE, json.dumps(contents, indent=1) + "\n")


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of an exported directory, None if there is none: the directory is another program's.

    Raises:
        FormatError: it is damaged, or of another version.
        TokenizationError: its vocabulary is damaged.
    """
    path = directory / MANIFEST_FILE
    if not path.exists():
        return None
    raw = read_json(path)
    if raw.get("format") != FORMAT or raw.get("version") != VERSION:
        raise FormatError(
            f"{path} has format {raw.get('format')!r:.40} and version {raw.get('version')!r:.20}; this program reads "
            f"{FORMAT!r} in version {VERSION}: update the program"
        )
    if raw.get("checksum") != _checksum(raw):
        raise FormatError(f"{path} is damaged: its checksum does not match. {_REMEDY}")
    kinds = {"layout": str, "vocabulary": dict, "provenance": dict, "notes": list, "files": dict}
    if wrong := [name for name, kind in kinds.items() if not isinstance(raw.get(name), kind)]:
        raise FormatError(f"{path} was not written by this program: {', '.join(wrong)} missing or of another kind")
    for name, known in raw["files"].items():
        if not (isinstance(known, dict) and {"bytes", "sha256"} <= set(known)):
            raise FormatError(f"{path} was not written by this program: {name!r:.80} has no checksum")
    return Manifest(
        layout=raw["layout"],
        vocabulary=vocabulary_from_dict(raw["vocabulary"]),
        provenance=raw["provenance"],
        notes=tuple(str(note) for note in raw["notes"]),
        files=raw["files"],
    )


_REMEDY = f"Export again, or delete {MANIFEST_FILE} to read the directory as another program's"


def verify_files(directory: Path, manifest: Manifest, names: Sequence[str], *, whole: bool = False) -> None:
    """Hold files to the manifest.

    Args:
        names: the files that matter to the reader.
        whole: read all of each weight file, which takes long for a large one; otherwise its size and header.

    Raises:
        FormatError: a file is missing, or has changed since it was written.
    """
    for name in names:
        path, known = directory / name, manifest.files.get(name)
        if known is None:
            raise FormatError(f"{path} was added after the export. {_REMEDY}")
        if not path.is_file():
            raise FormatError(f"{path} is missing. {_REMEDY}")
        weights = path.suffix == ".safetensors"
        found = [path.stat().st_size == known["bytes"]]
        if found[0] and weights:
            found.append(_header_sha256(path) == known.get("header_sha256"))
        if found[0] and (whole or not weights):
            found.append(sha256_of_file(path) == known["sha256"])
        if not all(found):
            raise FormatError(f"{path} is not as it was exported: damaged, cut short or changed. {_REMEDY}")


def _header_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(header_size(path))).hexdigest()


def _checksum(contents: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in contents.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
