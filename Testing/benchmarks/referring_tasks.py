"""What `refer` is judged on: pairs of a reference with strokes and a target with a mask, from the data folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from CrossModalSegLib.io import read_volume
from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.scribbles import simulate_scribbles
from CrossModalSegLib.volume import Volume

ABDOMEN = LabelTable.from_names(["liver", "right kidney", "left kidney", "spleen"])
HEART = LabelTable.from_names(["left ventricle", "myocardium", "right ventricle"])
# CHAOS subjects that no model here is trained on.
HELD_OUT = ("05", "13")
BSSFP_VALUES = {500: 1, 200: 2, 600: 3}
LGE_VALUES = {3: 1, 2: 2, 1: 3}


@dataclass(frozen=True, eq=False)
class Image:
    """An image and its mask, uint8, on one grid."""

    image: Volume
    mask: Volume


@dataclass(frozen=True)
class Strokes:
    """How scribbles are simulated.

    Attributes:
        style: A key of SCRIBBLE_METHODS.
        every: Each so manieth slice is scribbled; 0 scribbles `slices_each` slices of each organ instead.
        slices_each: 1 is the slice where the organ is largest; more lie evenly over the organ's extent.
        seed: Of all choices.
    """

    style: str = "contour"
    every: int = 4
    slices_each: int = 1
    seed: int = 0

    def draw(self, mask: Volume) -> Volume:
        """Scribbles inside of a mask, uint8 on its grid, 255 where nothing is drawn."""
        if self.every > 0:
            array = simulate_scribbles(mask.array, mask.spacing, self.style, self.seed, self.every)
        else:
            kept = on_few_slices(mask.array, self.slices_each)
            array = simulate_scribbles(kept, mask.spacing, self.style, self.seed, 1, background="none")
        return mask.with_array(array)


@dataclass(frozen=True, eq=False)
class Task:
    """One reference, one target.

    Attributes:
        kind: Tasks of one kind make one row of a table.
        table: The organs.
        reference, target: Images; where they are one object, the reference itself is to be segmented.
        scribbles: On the reference.
    """

    kind: str
    table: LabelTable
    reference: Image
    target: Image
    scribbles: Volume

    @property
    def is_same(self) -> bool:
        """Whether the target is the reference itself."""
        return self.reference is self.target


def on_few_slices(mask: np.ndarray, count: int) -> np.ndarray:
    """A mask (k, j, i) of which each organ is left on `count` of its slices: the largest, or evenly over its extent."""
    kept = np.zeros_like(mask)
    for value in np.unique(mask[mask > 0]):
        areas = (mask == value).sum(axis=(1, 2))
        there = np.flatnonzero(areas)
        places = (np.arange(count) + 0.5) * len(there) / count
        for k in [int(areas.argmax())] if count == 1 else there[places.astype(int)]:
            kept[k][mask[k] == value] = value
    return kept


def chaos(data: Path, name: str, contrast: str) -> Image:
    """A CHAOS volume; the pair of subject 01 has names of its own."""
    folder = data / "chaos_mr"
    image = folder / f"chaos{name}_{contrast}.nii.gz"
    label = folder / (f"chaos{name}_{contrast}_label.nii.gz" if contrast.isupper() else f"chaos{name}_label.nii.gz")
    mask = read_volume(label)
    return Image(read_volume(image), mask.with_array(mask.array.astype(np.uint8)))


def chaos_pairs(data: Path) -> list[tuple[str, Image, Image]]:
    """Kind, reference and target: one volume, the real pair of contrasts both ways, and two subjects both ways."""
    first, second = (chaos(data, name, "t2") for name in HELD_OUT)
    t1, t2 = chaos(data, "01", "T1"), chaos(data, "01", "T2")
    return [
        ("same", first, first),
        ("same", second, second),
        ("T2->T1", t2, t1),
        ("T1->T2", t1, t2),
        ("subject", first, second),
        ("subject", second, first),
    ]


def chaos_tasks(data: Path, strokes: Strokes) -> list[Task]:
    """`chaos_pairs` with simulated scribbles."""
    return [
        Task(kind, ABDOMEN, reference, target, strokes.draw(reference.mask))
        for kind, reference, target in chaos_pairs(data)
    ]


def heart_tasks(data: Path, strokes: Strokes) -> Iterator[Task]:
    """LGE to bSSFP of the same patients, experts' scribbles where there are some."""
    folder = data / "mscmr"
    for path in sorted(folder.glob("lge_images_subject*_DE.nii.gz")):
        number = path.name.removeprefix("lge_images_subject").removesuffix("_DE.nii.gz")
        lge = read_volume(path)
        mask = _mapped(read_volume(folder / f"bssfp_label_{number}.nii.gz"), BSSFP_VALUES)
        target = Image(read_volume(folder / f"bssfp_image_{number}.nii.gz"), mask)
        expert = folder / f"lge_labels_subject{number}_DE_scribble.nii.gz"
        if expert.exists():
            scribbles = lge.with_array(_mapped(read_volume(expert), {0: 0, **LGE_VALUES}, UNLABELLED).array)
            reference = Image(lge, scribbles)
        else:
            dense = read_volume(folder / f"lge_labels_subject{number}_DE_manual.nii.gz")
            reference = Image(lge, lge.with_array(_mapped(dense, LGE_VALUES).array))
            scribbles = strokes.draw(reference.mask)
        yield Task("LGE->bSSFP", HEART, reference, target, scribbles)


def _mapped(volume: Volume, values: dict[int, int], fill: int = 0) -> Volume:
    """Label values renamed; all others become `fill`."""
    array = np.full(volume.array.shape, fill, np.uint8)
    for old, new in values.items():
        array[volume.array == old] = new
    return volume.with_array(array)
