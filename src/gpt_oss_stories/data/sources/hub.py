"""Data sets of the Hugging Face Hub, and folders laid out like one, through the library `datasets`.

Both go one way: a builder of `datasets` finds out which files belong to a split, and each file is streamed. Nothing is
downloaded as a whole. A data set of the Hub is pinned to the commit that was current when it was planned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from .csv_rows import wrong_column
from .json_items import Found
from .location import Source
from .report import DataError
from .text import LineCount, looks_like_rows

PROBE_SECONDS = 5.0
"""How long the Hub may take to answer before it counts as out of reach."""

_BATCH_ROWS = 256

_SHARD_NAME = re.compile(r"[\w.-]+-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")


class DataSet(NamedTuple):
    """A split of a data set of the Hub, or of a folder laid out like one."""

    name: str
    config: str | None
    split: str
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class HubPart:
    """A file of a split."""

    place: str
    """What messages call it."""
    rows: bool
    """Whether stories are spread over rows."""
    revision: str | None


def is_hub_folder(folder: Path) -> bool:
    """Whether a folder is laid out like a data set of the Hub: a README.md that configures it, or numbered tables."""
    if not folder.is_dir():
        return False
    try:
        with open(folder / "README.md", encoding="utf-8", errors="replace") as readme:
            if readme.readline().strip() == "---":
                for line in islice(readme, 1000):
                    if line.strip() == "---":
                        break
                    if line.startswith(("configs:", "dataset_info:")):
                        return True
    except OSError:
        pass  # no such file, or none that can be read; then the names of the files tell
    try:
        names = [*os.listdir(folder), *(os.listdir(folder / "data") if (folder / "data").is_dir() else ())]
    except OSError:
        return False  # told when the folder is walked
    return any(_SHARD_NAME.fullmatch(name) for name in names)


def plan_hub(source: Source) -> list[HubPart]:
    """The files of a split, in order.

    Raises:
        DataError: there is no such data set, split, configuration, revision or column, or the Hub cannot be reached.
    """
    name = source.location
    _open.cache_clear()  # a folder may have changed
    revision = _current_revision(name, source.revision) if source.is_hub else None
    stream, files = _open(DataSet(name, source.config, source.split, revision))
    first = _guarded(name, lambda: list(islice(stream, 200)))
    columns = list(stream.column_names or (first[0] if first else ()))
    if columns and columns.count(source.column) != 1:
        raise wrong_column(f"the data set {name}", source.column, columns)
    values = (row.get(source.column) for row in first)
    rows = looks_like_rows(value for value in values if isinstance(value, str))
    return [HubPart(place=place, rows=rows, revision=revision) for place in files]


def rows_of_hub(data_set: DataSet, index: int, count: LineCount) -> Iterator[Found]:
    """The rows of one file of a split, numbered on from `count`.

    Raises:
        DataError: the data set cannot be read, or not to its end.
    """
    stream, files = _open(data_set)
    rows = iter(stream.shard(num_shards=len(files), index=index))
    while (row := _guarded(data_set.name, lambda: next(rows, None))) is not None:
        count.lines += 1
        yield count.lines, row


def count_of_files(data_set: DataSet) -> int:
    """How many files a split has.

    Raises:
        DataError: the data set cannot be read.
    """
    return len(_open(data_set)[1])


@lru_cache(maxsize=8)
def _open(data_set: DataSet) -> tuple[Any, tuple[str, ...]]:
    """The stream of a split and the names of its files."""
    return _guarded(data_set.name, lambda: _open_unguarded(data_set))


def _open_unguarded(data_set: DataSet) -> tuple[Any, tuple[str, ...]]:
    import datasets

    name, config, split, revision = data_set
    builder = datasets.load_dataset_builder(name, config, revision=revision)
    if hasattr(builder.config, "batch_size"):
        # By default a whole row group of a parquet file is in memory.
        builder.config.batch_size = _BATCH_ROWS
    stream = builder.as_streaming_dataset(split=split)
    paths = list((builder.config.data_files or {}).get(split, ()))
    if len(paths) != stream.num_shards:
        return stream, tuple(f"{name} part {number + 1}" for number in range(stream.num_shards))
    return stream, tuple(_short(name, str(path)) for path in paths)


def _short(name: str, path: str) -> str:
    """The name of a file within its data set."""
    if Path(name).is_dir():
        return os.path.relpath(path, Path(name).resolve()).replace(os.sep, "/")
    remote = re.fullmatch(r"hf://datasets/[^/]+/[^/@]+(?:@[^/]+)?/(.+)", path)
    return f"{name}/{remote[1] if remote else os.path.basename(path)}"


def _current_revision(name: str, revision: str | None) -> str | None:
    """The commit that a branch or a tag of a data set stands for now.

    One request without retries: without a network `datasets` itself would try for half a minute. If the Hub cannot be
    reached but the data set is in the cache of `datasets`, that is used.
    """
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().dataset_info(name, revision=revision, timeout=PROBE_SECONDS).sha
    except HfHubHTTPError as error:
        raise _refused(name, error) from error
    except _http_errors() as error:
        if (Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir():
            return revision
        raise _out_of_reach(name, error) from error


def _http_errors() -> tuple[type[Exception], ...]:
    """The root of the errors of whichever HTTP library the Hub's client uses, and OSError."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))


def _guarded(name: str, action: Any) -> Any:
    """What an action with the library gives, its errors made one line."""
    import pyarrow as pa
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return action()
    except (HfHubHTTPError, DatasetNotFoundError) as error:
        raise _refused(name, error) from error
    except (ConnectionError, TimeoutError) as error:
        raise _out_of_reach(name, error) from error
    except (*_http_errors(), ValueError, RuntimeError, TypeError, pa.ArrowException, DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the data set {name} cannot be read: {_first_line(error)}") from error


def _refused(name: str, error: Exception) -> DataError:
    return DataError(
        f"the Hub does not give the data set {name}: {_first_line(error)}. Check the name and the revision; a private "
        "or gated one needs a login (`hf auth login`)"
    )


def _out_of_reach(name: str, error: Exception) -> DataError:
    return DataError(
        f"{name} is no file or folder here, and as a data set of the Hub it is out of reach ({_first_line(error)}). "
        "Without a network: download its parquet files elsewhere and give their folder, give a .txt or .jsonl file of "
        "stories, or leave the source out to use the built-in stories"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
