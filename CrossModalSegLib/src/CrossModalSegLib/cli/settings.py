"""Settings files of trainings, and settings changed key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The settings with the changes, nested ones key by key."""
    result = dict(settings)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result


def settings_file(path: Path) -> dict[str, Any]:
    """The JSON object of a settings file.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    from CrossModalSegLib.config import read_json
    from CrossModalSegLib.errors import InputError

    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"The settings file '{path}' should hold a JSON object, got {type(data).__name__}.")
    return data
