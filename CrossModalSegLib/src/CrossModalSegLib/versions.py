"""Versions of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib import metadata

from CrossModalSegLib import __version__

PACKAGES = (
    "torch",
    "monai",
    "einops",
    "lightning",
    "numpy",
    "contourpy",
    "scipy",
    "SimpleITK",
    "safetensors",
    "tyro",
    "tqdm",
    "matplotlib",
    "psutil",
)


def library_versions() -> dict[str, str]:
    """Versions by package name, Python and the library first; "missing" where a package is not installed."""
    versions = {"CrossModalSegLib": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions
