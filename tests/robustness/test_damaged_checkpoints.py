"""Damaged copies of exported models: each ends in one clear line, soon, and without taking memory.

The damage is drawn from a seed: files cut short, bits flipped before the weights, shapes swapped, lengths blown up,
shards missing. Copies without `gpt_oss_stories.json`, as other programs write them, have no checksums: there a flipped
bit may go unnoticed, but nothing else than a clear line or a model may come of it.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.interop.checkpoints import open_checkpoint
from gpt_oss_stories.interop.export import export_huggingface, export_openai
from gpt_oss_stories.interop.inspection import checkpoint_facts
from support.small_models import saved, small_config, small_vocabulary

SHARD = "the first weight file"
MANIFEST = "gpt_oss_stories.json"
CPU_SECONDS = 1.0
MEMORY_BYTES = 256 << 20

Damage = Callable[[Path, random.Random], None]


@pytest.fixture(scope="module", params=["huggingface", "openai", "openai in MXFP4"])
def exported(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    vocabulary = small_vocabulary()
    source = open_checkpoint(saved(folder / "model.pt", small_config(vocabulary), vocabulary))
    if request.param == "huggingface":
        export_huggingface(source, folder / "out", max_shard_bytes=150_000)
    else:
        mxfp4 = request.param.endswith("MXFP4")
        export_openai(
            source, folder / "out", dtype="float32", mxfp4=mxfp4, max_shard_bytes=65_000 if mxfp4 else 150_000
        )
    assert len(list((folder / "out").glob("model-*.safetensors"))) > 1
    return folder / "out"


def file(folder: Path, name: str) -> Path:
    return min(folder.glob("model-*.safetensors")) if name == SHARD else folder / name


def header(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(path: Path, contents: dict, rest: bytes) -> None:
    text = json.dumps(contents).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + rest)


def cut(name: str) -> Damage:
    def damage(folder: Path, draw: random.Random) -> None:
        content = file(folder, name).read_bytes()
        file(folder, name).write_bytes(content[: draw.randrange(len(content))])

    return damage


def flip(name: str, end: int | None = None) -> Damage:
    """One bit: of a weight file before the weights, of any other file anywhere."""

    def damage(folder: Path, draw: random.Random) -> None:
        content = bytearray(file(folder, name).read_bytes())
        limit = 8 + int.from_bytes(content[:8], "little") if name == SHARD else len(content)
        place = draw.randrange(min(limit, end or limit))
        content[place] ^= 1 << draw.randrange(8)
        file(folder, name).write_bytes(content)

    return damage


def tensor(change: Callable[[dict, random.Random], None]) -> Damage:
    """Change the entry of one matrix in a weight file's header."""

    def damage(folder: Path, draw: random.Random) -> None:
        contents, rest = header(file(folder, SHARD))
        uneven = [
            name
            for name, entry in contents.items()
            if name != "__metadata__" and len(set(entry["shape"])) > 1 and 1 not in entry["shape"]
        ]
        change(contents[draw.choice(sorted(uneven))], draw)
        write_header(file(folder, SHARD), contents, rest)

    return damage


def swap_shape(entry: dict, draw: random.Random) -> None:
    entry["shape"] = entry["shape"][::-1]


def flatten_shape(entry: dict, draw: random.Random) -> None:
    count = 1
    for length in entry["shape"]:
        count *= length
    entry["shape"] = [count]


def huge_shape(entry: dict, draw: random.Random) -> None:
    entry["shape"] = [1 << 40, 1 << 40]


def other_kind(entry: dict, draw: random.Random) -> None:
    entry["dtype"] = {"F32": "I32", "U8": "I8"}[entry["dtype"]]


def shifted(entry: dict, draw: random.Random) -> None:
    entry["data_offsets"] = [offset + 4 for offset in entry["data_offsets"]]


def rename_tensor(folder: Path, draw: random.Random) -> None:
    contents, rest = header(file(folder, SHARD))
    name = draw.choice(sorted(name for name in contents if name != "__metadata__"))
    contents[name + "x"] = contents.pop(name)
    write_header(file(folder, SHARD), contents, rest)


def length_field(value: int) -> Damage:
    def damage(folder: Path, draw: random.Random) -> None:
        content = file(folder, SHARD).read_bytes()
        file(folder, SHARD).write_bytes(value.to_bytes(8, "little") + content[8:])

    return damage


def setting(names: tuple[str, ...], value: object) -> Damage:
    """Change one setting; the two layouts have different names for it."""

    def damage(folder: Path, draw: random.Random) -> None:
        settings = json.loads((folder / "config.json").read_text())
        settings[next(name for name in names if name in settings)] = value
        (folder / "config.json").write_text(json.dumps(settings))

    return damage


def without(name: str) -> Damage:
    return lambda folder, draw: file(folder, name).unlink()


def replaced(name: str, content: bytes) -> Damage:
    def damage(folder: Path, draw: random.Random) -> None:
        file(folder, name).write_bytes(content)

    return damage


INDEX = "model.safetensors.index.json"
CERTAIN: dict[str, Damage] = {
    "shard cut short": cut(SHARD),
    "shard cut within the length": lambda folder, draw: replaced(SHARD, b"\x10\0\0")(folder, draw),
    "empty shard": replaced(SHARD, b""),
    "missing shard": without(SHARD),
    "shard of noise": replaced(SHARD, bytes(range(256)) * 40),
    "header of any length": length_field((1 << 64) - 1),
    "header as long as the sun": length_field(1 << 40),
    "header a little short": length_field(40),
    "swapped shape": tensor(swap_shape),
    "flattened shape": tensor(flatten_shape),
    "huge shape": tensor(huge_shape),
    "other kind of number": tensor(other_kind),
    "shifted offsets": tensor(shifted),
    "renamed tensor": rename_tensor,
    "configuration cut short": cut("config.json"),
    "missing configuration": without("config.json"),
    "configuration nested without end": replaced("config.json", b'{"a":' * 100_000),
    "configuration is a list": replaced("config.json", b"[1, 2]"),
    "endless layers": setting(("num_hidden_layers",), 10**12),
    "a thousand layers": setting(("num_hidden_layers",), 1000),
    "a giant vocabulary": setting(("vocab_size",), 2_000_000),
    "a giant width": setting(("hidden_size",), 65_536),
    "a width that is text": setting(("hidden_size",), "wide"),
    "more experts": setting(("num_local_experts", "num_experts"), 4096),
    "other heads": setting(("num_attention_heads",), 6),
    "no key-value heads": setting(("num_key_value_heads",), None),
    "index cut short": cut(INDEX),
    "index leads out": replaced(INDEX, b'{"weight_map": {"a": "../../model.safetensors"}}'),
    "index without a table": replaced(INDEX, b'{"weight_map": 7}'),
}
"""Damage that no reader may overlook, with or without checksums."""

WITH_CHECKSUMS: dict[str, Damage] = {
    **{f"bit of a shard's header, {number}": flip(SHARD) for number in range(12)},
    **{f"bit of a shard's length, {number}": flip(SHARD, end=8) for number in range(4)},
    **{f"bit of the configuration, {number}": flip("config.json") for number in range(8)},
    **{f"bit of the index, {number}": flip(INDEX) for number in range(4)},
    **{f"bit of our description, {number}": flip(MANIFEST) for number in range(12)},
    "description cut short": cut(MANIFEST),
    "another parameter in the configuration": setting(("rope_parameters", "rope_theta"), 12_345.0),
}
"""Damage that only checksums make certain to be seen."""


def refused(folder: Path) -> str:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(StoryError) as caught:
        open_checkpoint(folder).build()
    line = str(caught.value)
    assert time.process_time() - began < CPU_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY_BYTES
    assert "\n" not in line
    assert len(line) < 2000
    return line


def damaged(exported: Path, tmp_path: Path, name: str, damage: Damage, *, keep_manifest: bool = True) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    if not keep_manifest:
        (folder / MANIFEST).unlink()
    damage(folder, random.Random(name))
    return folder


@pytest.mark.parametrize("name", [*CERTAIN, *WITH_CHECKSUMS])
def test_damage_to_an_export_is_one_clear_line(name, exported, tmp_path):
    folder = damaged(exported, tmp_path, name, {**CERTAIN, **WITH_CHECKSUMS}[name])
    assert folder.name in refused(folder)


@pytest.mark.parametrize("name", CERTAIN)
def test_so_is_damage_to_a_directory_without_checksums(name, exported, tmp_path):
    folder = damaged(exported, tmp_path, name, CERTAIN[name], keep_manifest=False)
    refused(folder)


@pytest.mark.parametrize("name", WITH_CHECKSUMS)
def test_without_checksums_a_flipped_bit_gives_a_line_or_a_model(name, exported, tmp_path):
    if "description" in name:
        return  # the very file that is not there
    folder = damaged(exported, tmp_path, name, WITH_CHECKSUMS[name], keep_manifest=False)
    try:
        open_checkpoint(folder).build()
    except StoryError:
        refused(folder)


def test_flipped_weights_are_found_when_asked(exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    assert "as they were" in checkpoint_facts(open_checkpoint(folder), verify=True)["verified"]["files"]
    content = bytearray(file(folder, SHARD).read_bytes())
    content[-5] ^= 4
    file(folder, SHARD).write_bytes(content)
    with pytest.raises(StoryError, match="not as it was exported"):
        checkpoint_facts(open_checkpoint(folder), verify=True)
