"""MR simulated from a CT with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from CrossModalSegLib.errors import GeometryError, InputError, LabelError
from CrossModalSegLib.io import read_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.simulation import MrFromCtOptions, mr_from_ct
from CrossModalSegLib.volume import Volume

TABLE = LabelTable.from_names(("liver", "gallbladder", "aorta"))
CLEAN = MrFromCtOptions(noise=0.0, bias_field=0.0, texture=0.0)


def phantom(clip: int = -1000) -> tuple[Volume, Volume]:
    """A water-equivalent torso of muscle with a fat layer, a spine, and three organs."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in (8, 60, 60)), indexing="ij")
    radius = np.hypot(j - 30, i - 30)
    ct = np.full(k.shape, -1000, dtype=np.int16)
    ct[radius < 27] = -100
    ct[radius < 22] = 55
    ct[np.hypot(j - 45, i - 30) < 6] = 700
    mask = np.zeros(k.shape, dtype=np.uint8)
    for value, (row, column, size, hu) in enumerate(((25, 20, 8, 110), (22, 36, 5, 5), (36, 30, 3, 180)), start=1):
        organ = np.hypot(j - row, i - column) < size
        mask[organ], ct[organ] = value, hu
    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    return Volume(np.maximum(ct, clip), affine), Volume(mask, affine)


@pytest.mark.parametrize("clip", [-1000, -125])
def test_contrasts_on_a_phantom(clip: int) -> None:
    ct, mask = phantom(clip)

    def values(contrast: str) -> dict[str, float]:
        mr = mr_from_ct(ct, mask, TABLE, 0, contrast, CLEAN).array[4].astype(float)
        return {
            "liver": mr[25, 20], "bile": mr[22, 36], "aorta": mr[36, 30], "muscle": mr[30, 45],
            "fat": mr[30, 54], "air": mr[2, 2], "marrow": mr[45, 30],
        }  # fmt: skip

    t2, spir, t1 = values("t2"), values("t2_spir"), values("t1")
    assert t2["bile"] > 2 * t2["liver"] > t2["aorta"]
    assert spir["fat"] < 0.3 * spir["bile"]
    assert t1["fat"] > t1["liver"] > t1["bile"]
    assert t1["marrow"] > 100
    assert all(each["air"] == 0 for each in (t2, spir, t1))
    opposed, in_phase = values("opposed_phase"), values("in_phase")
    assert opposed["marrow"] / opposed["muscle"] < 0.8 * in_phase["marrow"] / in_phase["muscle"]


def test_deterministic_and_on_the_grid_of_the_ct() -> None:
    ct, mask = phantom()
    first, second = (mr_from_ct(ct, mask, TABLE, 7, "dwi") for _ in range(2))
    np.testing.assert_array_equal(first.array, second.array)
    np.testing.assert_array_equal(first.affine, ct.affine)
    assert first.array.dtype == np.int16
    assert first.array.min() >= 0
    assert (mr_from_ct(ct, mask, TABLE, 8, "dwi").array != first.array).any()


def test_labels_without_a_tissue_are_told(caplog: pytest.LogCaptureFixture) -> None:
    ct, mask = phantom()
    mr_from_ct(ct, mask, LabelTable.from_names(("liver", "stomach", "aorta", "Spl")), 0)
    assert not caplog.records  # the content of hollow organs has its own CT numbers, and no voxel is "Spl"
    mr_from_ct(ct, mask, LabelTable.from_names(("Liv", "gallbladder", "label 3")), 0)
    assert "No tissue is known for Liv, label 3" in caplog.text


@pytest.mark.parametrize("name", ["liver tumour", "kidney tumor", "GTV of the colon"])
def test_a_tumour_is_none_of_the_organ_that_it_grows_in(name: str) -> None:
    ct, mask = phantom()
    inside = np.hypot(*np.meshgrid(np.arange(60) - 25, np.arange(60) - 20, indexing="ij")) < 3
    mask.array[:, inside] = 4
    mr = mr_from_ct(ct, mask, LabelTable.from_names((*TABLE.names, name)), 0, "t2", CLEAN).array[4].astype(float)
    assert mr[25, 20] > 1.5 * mr[25, 14]


def test_misregistration_moves_the_mr() -> None:
    ct, mask = phantom()
    still = mr_from_ct(ct, mask, TABLE, 0, "t2", CLEAN).array
    moved = mr_from_ct(
        ct, mask, TABLE, 0, "t2", MrFromCtOptions(noise=0, bias_field=0, texture=0, misregistration_mm=4.0)
    ).array
    assert 0.7 < np.corrcoef(still.ravel(), moved.ravel())[0, 1] < 0.995


def test_bad_inputs_are_refused() -> None:
    ct, mask = phantom()
    with pytest.raises(GeometryError):
        mr_from_ct(ct, Volume(mask.array[:4], mask.affine), TABLE, 0)
    with pytest.raises(LabelError):
        mr_from_ct(ct, mask, LabelTable.from_names(("liver",)), 0)
    with pytest.raises(InputError, match="no MR contrast 'pet'"):
        mr_from_ct(ct, mask, TABLE, 0, "pet")
    with pytest.raises(InputError, match="must not be negative"):
        mr_from_ct(ct, mask, TABLE, -1)
    with pytest.raises(InputError, match="noise must be a finite number"):
        MrFromCtOptions(noise=-1)


def test_real_ct(real_data: Path) -> None:
    names = ("spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta")
    names += ("inferior vena cava", "portal and splenic veins", "pancreas", "right adrenal", "left adrenal")
    ct, mask = (read_volume(real_data / "sabs_ct" / f"sabs19_{kind}.nii.gz") for kind in ("ct", "label"))
    middle = int(np.argwhere(mask.array == 2)[:, 0].mean())
    window = slice(middle - 3, middle + 3)
    affine = ct.affine.copy()
    affine[:3, 3] += affine[:3, 2] * window.start
    ct, mask = Volume(ct.array[window], affine), Volume(mask.array[window].astype(np.uint8), affine)
    mr = mr_from_ct(ct, mask, LabelTable.from_names(names), 1, "t2_spir")
    kidney, liver, aorta = (np.median(mr.array[mask.array == value]) for value in (2, 6, 8))
    assert kidney > 1.5 * liver
    assert liver > aorta
