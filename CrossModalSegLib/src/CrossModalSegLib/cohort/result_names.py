"""Whether results can be written under the names of a cohort's cases, on this computer and on others."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from ..errors import CohortError

_PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"}
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$", *_PORTS}


def is_device(name: str) -> bool:
    """Whether Windows keeps a name for itself, as it does CON, whatever follows after a dot."""
    return name.split(".")[0].rstrip().casefold() in _DEVICES


def check_result_names(names: Iterable[str]) -> None:
    """Check that cases give files and folders that every file system keeps apart.

    Windows and macOS do not tell capitals from small letters, nor Windows a name from the same with dots at its end;
    Windows keeps names such as CON for itself.

    Raises:
        CohortError: two names would be one, or one cannot be a name; says which.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFC", name).casefold()
        if is_device(plain) or plain.endswith("."):
            raise CohortError(f"Results cannot be written under the name '{name}' on Windows; rename this case.")
        if plain in found:
            raise CohortError(
                f"The results of the cases '{found[plain]}' and '{name}' would have the same name on Windows and "
                "macOS, which do not tell capitals from small letters; rename one of them."
            )
        found[plain] = name
