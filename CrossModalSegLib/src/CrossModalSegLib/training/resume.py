"""Whether a checkpoint belongs to the training that shall continue from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from CrossModalSegLib.errors import InputError

# They change nothing about the result.
RUNTIME_KEYS = ("checkpoint_minutes", "num_workers")


def check_same_training(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Compare the descriptions of two trainings.

    Args:
        saved: Nested dicts, of the checkpoint.
        present: The same, of the training that was asked for.

    Raises:
        InputError: They differ; the first differing keys are named with both values.
    """
    old, new = _flat(saved), _flat(present)
    keys = [key for key in {**old, **new} if key.rsplit(".", 1)[-1] not in RUNTIME_KEYS]
    differing = [key for key in keys if old.get(key, "nothing") != new.get(key, "nothing")]
    if differing:
        texts = [f"{key} was {old.get(key, 'absent')!r} and is now {new.get(key, 'absent')!r}" for key in differing[:5]]
        raise InputError(
            f"The training cannot be resumed with other settings: {'; '.join(texts)}. "
            "Use the former settings, or train into another folder."
        )


def check_same_content(saved: Mapping[str, str | None] | None, present: Mapping[str, str | None]) -> None:
    """Compare what the cases of two trainings hold.

    Args:
        saved: Hashes by the names of cases, of the checkpoint; None where it is from before they were kept.
        present: The same, of the training that was asked for.

    Raises:
        InputError: Cases differ; they are named.
    """
    changed = [name for name, key in present.items() if saved is not None and saved.get(name) != key]
    if changed:
        names = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise InputError(
            f"The training cannot be resumed with other data: images, scribbles or masks of {names} changed since it "
            "was stopped. Put the former files back, or train into another folder."
        )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
