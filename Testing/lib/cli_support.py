"""What the tests of the command line share: tiny images on disk, and running a command as a person would."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from CrossModalSegLib.cli.main import main
from CrossModalSegLib.io import write_segmentation, write_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume
from two_boxes import SHAPE, mask_array, scribble_array

TABLE = LabelTable.from_names(["GTV", "brainstem"])


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of the error; the command must have ended with 2 and said nothing else."""
        assert self.code == 2
        lines = [line for line in self.err.splitlines() if line]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in self.err
        return lines[0]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Run:
    """Run `crossmodalseg` in this process."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return Run(code, captured.out, captured.err)


def affine(origin: tuple[float, float, float] = (-20.0, -20.0, 0.0)) -> np.ndarray:
    """Spacing 2 x 2 x 4 mm (i, j, k)."""
    result = np.diag([2.0, 2.0, 4.0, 1.0])
    result[:3, 3] = origin
    return result


def image_array(seed: int) -> np.ndarray:
    """The boxes in noise, as CT numbers."""
    noise = np.random.default_rng(seed).normal(0, 10, SHAPE)
    return (noise + 60.0 * mask_array()).astype(np.float32)


def write_case(folder: Path) -> dict[str, Path]:
    """CT, MR, mask and scribbles, in a folder whose name has a space and is not ASCII."""
    folder = folder / "Fälle 1"
    folder.mkdir()
    volumes = {
        "ct": image_array(1),
        "mr": image_array(2) + 200,
        "mask": mask_array(),
        "scribbles": scribble_array(),
    }
    paths = {name: folder / f"{name}.nii.gz" for name in volumes}
    for name, array in volumes.items():
        write_volume(Volume(array, affine()), paths[name])
    paths["mask_seg"] = folder / "mask.seg.nrrd"
    write_segmentation(Volume(mask_array(), affine()), TABLE, paths["mask_seg"])
    return paths


def content(folder: Path) -> set[str]:
    """Everything below a folder, by relative path."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
