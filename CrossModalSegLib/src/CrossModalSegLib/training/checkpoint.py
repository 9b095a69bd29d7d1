"""Checkpoints of a training, without pickle.

A checkpoint is a folder: tensors in `state.safetensors`, everything else in `state.json`. Each is a new folder that is
renamed to its final name once it is complete, and the previous one goes only after that: whenever a training is
killed, the newest complete checkpoint is there.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from CrossModalSegLib.errors import ModelError, OutputError
from CrossModalSegLib.output import atomic_folder

FORMAT = "crossmodalseg-checkpoint-1"
TENSORS, VALUES = "state.safetensors", "state.json"
_FOLDER = re.compile(r"step-(\d{8,})")
_PARTIAL = ".partial-"


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint, then remove older ones.

    Args:
        folder: Holds the checkpoints of one training; made when missing.
        step: Steps done so far.
        state: Nested dicts, lists and tuples of tensors, numbers, text, booleans and None.

    Returns:
        The checkpoint's folder.

    Raises:
        OutputError: It cannot be written; the previous checkpoint is then untouched.
    """
    target = Path(folder) / f"step-{step:08d}"
    tensors: dict[str, Tensor] = {}
    values = _encode(state, "", tensors)
    with atomic_folder(target, overwrite=True) as temporary:
        try:
            save_file(_without_shared_memory(tensors), temporary / TENSORS)
        except SafetensorError as error:
            raise OutputError(f"The checkpoint '{target}' cannot be written: {error}. Free some space.") from error
        text = json.dumps({"format": FORMAT, "step": step, "state": values}, allow_nan=False)
        (temporary / VALUES).write_text(text, encoding="utf-8")
    for old in Path(folder).iterdir():
        if old != target and _is_own(old.name):
            shutil.rmtree(old, ignore_errors=True)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder, or None."""
    folder = Path(folder)
    if not folder.is_dir():
        return None
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name))]
    return max(found)[1] if found else None


def holds_only_checkpoints(folder: Path) -> bool:
    """Whether it is a folder with checkpoints, or what is left of unfinished ones, and nothing else."""
    return Path(folder).is_dir() and all(_is_own(path.name) for path in Path(folder).iterdir())


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints in a folder, and the folder unless something else is in it."""
    folder = Path(folder)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _is_own(path.name):
            shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote; tensors on the CPU.

    Raises:
        ModelError: It is no checkpoint, or damaged.
    """
    try:
        content = json.loads((Path(path) / VALUES).read_text(encoding="utf-8"))
        tensors = load_file(Path(path) / TENSORS)
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r} instead of {FORMAT!r}")
        return _decode(content["state"], tensors)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"The checkpoint '{path}' cannot be read ({error}); delete its folder and train from the beginning."
        ) from error


def _is_own(name: str) -> bool:
    return _FOLDER.fullmatch(name) is not None or name.startswith((_PARTIAL, ".old-"))


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` in what JSON holds; tensors go to `tensors` and leave their name."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"__tensor__": path}
    if isinstance(value, Mapping):
        items = [(key, _encode(item, f"{path}/{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("__") for key in value):
            return dict(items)
        return {"__items__": [list(item) for item in items]}
    if isinstance(value, (list, tuple)):
        items = [_encode(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return {"__tuple__": items} if isinstance(value, tuple) else items
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"A checkpoint cannot hold {path}, which is of the type {type(value).__name__}.")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if "__items__" in value:
        return {key: _decode(item, tensors) for key, item in value["__items__"]}
    if "__tuple__" in value:
        return tuple(_decode(item, tensors) for item in value["__tuple__"])
    if "__float__" in value:
        return float(value["__float__"])
    return {key: _decode(item, tensors) for key, item in value.items()}


def _without_shared_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU; safetensors refuses tensors that share memory."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.to("cpu").contiguous()
        address = tensor.untyped_storage().data_ptr()
        is_part = tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
        result[name] = torch.clone(tensor) if address in seen or is_part else tensor
        seen.add(address)
    return result
