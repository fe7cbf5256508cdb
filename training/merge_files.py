"""Model folders as safetensors: what lies in them, one tensor at a time; and writing one without ever holding it.

A safetensors file is 8 bytes (the length of the header, little-endian), the header (JSON: each tensor's dtype, shape and
place in what follows), and the tensors' bytes one after another without gaps. Shapes and dtypes decide the header, so it
is written first and the tensors are streamed after it, each dropped before the next is made.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.errors import TrainingError

if TYPE_CHECKING:
    import torch

FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
WHOLE = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}
_BYTES = {"F32": 4, "BF16": 2, "F16": 2, **WHOLE}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """A tensor as a header tells it; `dtype` is safetensors' name, such as BF16."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * _BYTES[self.dtype]


@dataclass(frozen=True)
class Weights:
    """The tensors of one model folder, by name, and the file that each lies in."""

    folder: Path
    entries: Mapping[str, Entry]
    places: Mapping[str, Path]

    @property
    def files(self) -> list[Path]:
        """The weight files, with the index where there is one: what `transformers` would read."""
        index = [] if (self.folder / _SINGLE).is_file() else [self.folder / _INDEX]
        return [*sorted(set(self.places.values())), *index]

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored. The file is opened anew each time: a mapping kept open keeps all that was read in memory."""
        from safetensors import safe_open

        with safe_open(self.places[name], framework="pt") as file:
            return file.get_tensor(name)

    def read_float(self, name: str) -> torch.Tensor:
        """The tensor as a float32 copy of its own."""
        import torch

        return self.read(name).to(torch.float32, copy=True)


def open_weights(folder: Path) -> Weights:
    """Read the headers of a folder's weight files, chosen as `transformers` does; raises `TrainingError`."""
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder; name a folder that holds config.json and {_SINGLE}")
    if (folder / _SINGLE).is_file():
        entries = _read_header(folder / _SINGLE)
        return Weights(folder, entries, dict.fromkeys(entries, folder / _SINGLE))
    if not (folder / _INDEX).is_file():
        raise TrainingError(_no_weights(folder))
    places = _read_index(folder)
    headers = {file: _read_header(file) for file in sorted(set(places.values()))}
    lost = [name for name, file in places.items() if name not in headers[file]]
    if lost:
        raise TrainingError(
            f"{folder}: {_INDEX} places {lost[0]} in {places[lost[0]].name}, which does not hold it"
            f"{and_more(len(lost) - 1)}: files of two models are mixed; copy the model again"
        )
    return Weights(folder, {name: headers[file][name] for name, file in places.items()}, places)


def _no_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return f"{folder}: holds a LoRA adapter, no whole model; merge it into its base model first (peft: merge_and_unload)"
    if pickles := sorted(path.name for path in folder.glob("*.bin")):
        return (
            f"{folder}: holds pickled weights only ({pickles[0]}), which can run code when they are read; load the model"
            " where you trust it and save it again with save_pretrained, which writes safetensors"
        )
    return f"{folder}: holds neither {_SINGLE} nor {_INDEX}; save the model there with save_pretrained"


def _read_index(folder: Path) -> dict[str, Path]:
    try:
        names: dict[str, str] = json.loads((folder / _INDEX).read_bytes())["weight_map"]
        outside = [file for file in names.values() if Path(file).name != file]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{folder}: {_INDEX} is no index of weights ({error}); copy the model again") from error
    if outside:
        raise TrainingError(f"{folder}: {_INDEX} names {outside[0]!r}, which is no file of this folder")
    lost = sorted({file for file in names.values() if not (folder / file).is_file()})
    if lost:
        raise TrainingError(f"{folder}: {lost[0]} is missing{and_more(len(lost) - 1)}; copy the model again")
    return {name: folder / file for name, file in names.items()}


def _read_header(path: Path) -> dict[str, Entry]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            return {name: Entry(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: is no whole safetensors file ({error}); copy the model again") from error


def and_more(count: int) -> str:
    """What to add to a message that names one of several."""
    return f" (and {count} more)" if count else ""


# ---- writing


def shard_names(entries: Mapping[str, Entry], max_bytes: float) -> dict[str, list[str]]:
    """File name -> tensors, in the given order, none above `max_bytes` unless one tensor is; one file has the plain name.

    Within a file wide elements come first, so that each tensor starts at a multiple of its element's size, on which
    readers that map the file rely.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, entry in entries.items():
        if shards[-1] and size + entry.bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += entry.bytes
    for shard in shards:
        shard.sort(key=lambda name: -_BYTES[entries[name].dtype])
    if len(shards) == 1:
        return {_SINGLE: shards[0]}
    return {f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard for number, shard in enumerate(shards, 1)}


def write_shard(
    path: Path, names: Sequence[str], entries: Mapping[str, Entry], make: Callable[[str], torch.Tensor]
) -> str:
    """Write one file, calling `make(name)` for each tensor in turn, and return its digest (see `file_digest`)."""
    import torch

    digest = _digest()
    with path.open("wb") as file:

        def put(data: Any) -> None:
            file.write(data)
            digest.update(data)

        put(_header(names, entries))
        for name in names:
            tensor, entry = make(name), entries[name]
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
            if tuple(tensor.shape) != entry.shape or data.nbytes != entry.bytes:
                raise ValueError(f"{name}: made as {tensor.dtype} {list(tensor.shape)}, announced as {entry}")
            put(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _header(names: Sequence[str], entries: Mapping[str, Entry]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses the file
    end = 0
    for name in names:
        start, end = end, end + entries[name].bytes
        header[name] = {"dtype": entries[name].dtype, "shape": entries[name].shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def write_index(folder: Path, shards: Mapping[str, Sequence[str]], entries: Mapping[str, Entry]) -> None:
    """Write the index that says which file holds which tensor; a single file needs none."""
    if len(shards) > 1:
        places = {name: file for file, names in shards.items() for name in names}
        total = {"total_size": sum(entry.bytes for entry in entries.values())}
        (folder / _INDEX).write_text(json.dumps({"metadata": total, "weight_map": places}, indent=2, sort_keys=True))


def file_digest(path: Path) -> str:
    """BLAKE2b of the whole file, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _digest).hexdigest()


def content_digest(files: Mapping[str, str]) -> str:
    """One digest for a model: BLAKE2b over its files' names and digests, sorted by name."""
    digest = _digest()
    for name, value in sorted(files.items()):
        digest.update(f"{name} {value}\n".encode())
    return digest.hexdigest()


def _digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def free_bytes(folder: Path) -> int:
    """Free space on the file system where `folder` is or will be."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    stat = os.statvfs(there)
    return stat.f_bavail * stat.f_frsize


def sizes(entries: Iterable[Entry]) -> tuple[int, int]:
    """Parameters and bytes."""
    found = list(entries)
    return sum(entry.count for entry in found), sum(entry.bytes for entry in found)
