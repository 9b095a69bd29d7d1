"""`fit` against Grow from seeds on small, long and thin structures, and on coarse images, with simulated scribbles.

    python Testing/benchmarks/fit_small_and_thin.py --data DATA --seconds 0 [--cases lesions cord ...] [--fit-alone]

lesions: multiple sclerosis in FLAIR. cord, cord-long: the spinal cord in T2, drawn across it and along it; cord+lesion
the same with a lesion that was made. grey: white and grey matter of the cord, in T2*. ct-organs, ct-bones, mr-organs,
mr-spine: CT and MR of 3 mm, whose masks a machine drew. Scribbles are of contour style, on every n-th slice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fit_vs_grow_from_seeds import TestCase, add_fit_options, run

from CrossModalSegLib.io import read_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scribbles import simulate_scribbles
from CrossModalSegLib.volume import Volume

CT_ORGANS = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "liver": 5,
    "stomach": 6,
    "pancreas": 7,
    "duodenum": 19,
    "colon": 20,
    "bladder": 21,
    "aorta": 52,
    "inferior vena cava": 63,
}
CT_BONES = {
    "left hip": 77,
    "right hip": 78,
    "left femur": 75,
    "right femur": 76,
    "sacrum": 25,
    "L5": 27,
    "L4": 28,
    "L3": 29,
    "L2": 30,
    "L1": 31,
    "spinal cord": 79,
    "left iliopsoas": 88,
    "right iliopsoas": 89,
    "left back muscle": 86,
    "right back muscle": 87,
}
MR_ORGANS = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "liver": 5,
    "stomach": 6,
    "pancreas": 7,
    "duodenum": 14,
    "colon": 15,
    "aorta": 23,
    "inferior vena cava": 24,
}
MR_SPINE = {"vertebrae": 19, "discs": 20, "spinal cord": 21, "left back muscle": 46, "right back muscle": 47}


@dataclass(frozen=True)
class Source:
    """Where a case comes from.

    Attributes:
        image: Its file.
        masks: Files of masks, of which each is a class, and later ones win; or one label map.
        classes: Names of the classes; of a label map, with their values.
        every: On which n-th slices scribbles are drawn.
        turned: Whether slices across the body are drawn on, not the stored ones.
    """

    image: str
    masks: tuple[str, ...]
    classes: tuple[str, ...] | dict[str, int]
    every: tuple[int, ...]
    turned: bool = False


T2, MADE = "sct_testing/t2/t2", "sct_testing/t2/t2_fake_lesion"
MADE_MASKS = (f"{MADE}_sc_seg", f"{MADE}_lesion_seg")
T2S_MASKS = ("sct_testing/t2s/t2s_seg", "sct_testing/t2s/t2s_gmseg_manual")
CT, CT_MASK = "totalseg/example_ct", ("totalseg/example_seg_fast_force_split",)
MR, MR_MASK = "totalseg/example_mr_sm", ("totalseg/example_seg_mr",)
SOURCES = {
    "lesions": Source("open_ms/p07_FLAIR", ("open_ms/p07_GOLD",), ("lesion",), (1, 3)),
    "cord": Source(T2, (f"{T2}_seg-manual",), ("spinal cord",), (3, 6), turned=True),
    "cord-long": Source(T2, (f"{T2}_seg-manual",), ("spinal cord",), (1, 3)),
    "cord+lesion": Source(MADE, MADE_MASKS, ("spinal cord", "lesion"), (1, 2)),
    "grey": Source("sct_testing/t2s/t2s", T2S_MASKS, ("white matter", "grey matter"), (1, 2)),
    "ct-organs": Source(CT, CT_MASK, CT_ORGANS, (6,)),
    "ct-bones": Source(CT, CT_MASK, CT_BONES, (6,)),
    "mr-organs": Source(MR, MR_MASK, MR_ORGANS, (1, 2, 4)),
    "mr-spine": Source(MR, MR_MASK, MR_SPINE, (2, 4)),
}


def test_case(name: str, source: Source, data: Path) -> TestCase:
    """Image and mask of a case."""
    image, *masks = (read_volume(data / f"{file}.nii.gz") for file in (source.image, *source.masks))
    is_label_map = isinstance(source.classes, dict)
    chosen = (
        [masks[0].array == value for value in source.classes.values()] if is_label_map else [m.array > 0 for m in masks]
    )
    labels = np.zeros(image.shape, np.uint8)
    for value, inside in enumerate(chosen, start=1):
        labels[inside] = value
    turn: Callable[[Volume], Volume] = axial if source.turned else lambda volume: volume
    modality = "ct" if name.startswith("ct") else "mr"
    table = LabelTable.from_names(list(source.classes))
    return TestCase(name, name, {modality: turn(image)}, turn(image.with_array(labels)), table)


def axial(volume: Volume) -> Volume:
    """The same voxels with the axis closest to S as the first one."""
    axis = 2 - int(np.abs(volume.affine[2, :3]).argmax())
    order = (axis, *(other for other in range(3) if other != axis))
    affine = volume.affine.copy()
    affine[:3, :3] = affine[:3, [2 - each for each in reversed(order)]]
    return Volume(np.ascontiguousarray(volume.array.transpose(order)), affine)


def drawings_of(arguments: argparse.Namespace) -> Iterator[tuple[TestCase, np.ndarray, int]]:
    """The cases with simulated scribbles, at each density."""
    for name in arguments.cases:
        case = test_case(name, SOURCES[name], arguments.data)
        for every in SOURCES[name].every:
            yield case, simulate_scribbles(case.mask.array, case.mask.spacing, "contour", arguments.seed, every), every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with open_ms, sct_testing and totalseg")
    parser.add_argument("--cases", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    add_fit_options(parser)
    arguments = parser.parse_args()
    run(drawings_of(arguments), arguments)


if __name__ == "__main__":
    main()
