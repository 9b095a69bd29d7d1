"""A real lesion in registered CT and MR, from strokes that were drawn by looking at the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.fitting.fit_case import FitConfig, fit_case
from CrossModalSegLib.io import read_volume
from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.report import write_overlay
from CrossModalSegLib.scribbles.brush import draw_points, resample_polyline

Stroke = list[tuple[int, int]]

# Strokes as (column, row) points on slices of case 28: oedema around a left temporal lesion, bright in T2.
LESION: dict[int, list[Stroke]] = {
    4: [[(180, 70), (178, 90), (172, 110), (175, 130), (178, 150)]],
    6: [[(175, 85), (172, 105), (170, 125), (165, 145)], [(182, 115), (185, 140)]],
    8: [[(165, 80), (180, 85), (185, 100)], [(160, 105), (157, 135)]],
    10: [[(175, 82), (155, 88), (148, 105)]],
}
# Brain, and the ventricles, which are as bright as the oedema.
BACKGROUND: dict[int, list[Stroke]] = {
    4: [[(100, 60), (120, 160)], [(140, 190), (90, 190)], [(150, 60), (150, 40)], [(70, 100), (75, 150)]],
    6: [[(100, 95), (97, 60)], [(125, 150), (122, 170)], [(80, 100), (85, 180)], [(150, 190), (180, 165)]],
    8: [[(105, 90), (118, 140)], [(135, 115), (131, 145)], [(140, 150), (140, 190)], [(170, 150), (180, 180)]],
    10: [[(110, 100), (115, 160)], [(150, 150), (170, 170)], [(150, 50), (170, 60)], [(180, 120), (185, 150)]],
}


def scribbled_case(real_data: Path) -> LoadedCase:
    """Case 28 with the strokes above."""
    folder = real_data / "harvard_ctmr"
    ct, mr = (read_volume(folder / f"case28_{name}.nii.gz") for name in ("ct", "mr"))
    scribbles = np.full(ct.shape, UNLABELLED, np.uint8)
    for value, strokes_by_slice in ((0, BACKGROUND), (1, LESION)):
        for k, strokes in strokes_by_slice.items():
            for stroke in strokes:
                points = np.array([(row, column) for column, row in stroke], float)
                scribbles[k][draw_points(resample_polyline(points), scribbles.shape[1:], 3)] = value
    return LoadedCase("case28", {"ct": ct, "mr": mr}, ct.with_array(scribbles), None)


@pytest.mark.slow
def test_a_real_lesion_is_found_in_its_hemisphere(real_data: Path, tmp_path: Path):
    loaded, table = scribbled_case(real_data), LabelTable.from_names(["lesion"])
    result = fit_case(loaded, table, FitConfig(seconds=30.0))
    write_overlay(tmp_path / "overlay.png", loaded.images, result.labels, table, scribbles=loaded.scribbles)
    lesion = result.labels.array == 1
    millilitres = lesion.sum() * result.labels.voxel_ml
    mr = loaded.images["mr"].array
    assert 40 < millilitres < 220
    assert (lesion[:, :, :128].sum() / lesion.sum()) < 0.02
    assert mr[lesion].mean() > 2 * mr[(mr > 20) & ~lesion].mean()
    assert lesion[5].any() and lesion[7].any() and lesion[9].any()
    print(f"{millilitres:.1f} ml; {tmp_path / 'overlay.png'}")
