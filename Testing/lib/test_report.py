from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from CrossModalSegLib.errors import GeometryError, InputError, OutputError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.report import write_curve, write_overlay
from CrossModalSegLib.report.curve import smoothed
from CrossModalSegLib.report.panel import windowed
from CrossModalSegLib.report.patient_axes import PLANES, PatientAxes, best_slices
from CrossModalSegLib.volume import Volume

TABLE = LabelTable.from_names(["liver", "spleen"])
SHAPE = (6, 20, 24)


def _phantom(affine: np.ndarray | None = None) -> dict[str, Volume]:
    """Images and labels of one grid."""
    affine = np.diag([1.0, 1.0, 4.0, 1.0]) if affine is None else affine
    rng = np.random.default_rng(0)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:5, 4:12, 4:14] = 1
    labels[2:4, 14:18, 16:20] = 2
    scribbles = np.full(SHAPE, 255, dtype=np.uint8)
    scribbles[3, 6, 6:10] = 1
    scribbles[3, 1, 2:20] = 0
    arrays = {"ct": rng.normal(0, 50, SHAPE), "mr": rng.normal(100, 9, SHAPE), "labels": labels, "scribbles": scribbles}
    return {name: Volume(array, affine) for name, array in arrays.items()}


def _png_size(path: Path) -> tuple[int, int]:
    picture = imread(path)
    assert picture.std() > 0.05
    return picture.shape[0], picture.shape[1]


def test_overlay_is_written_with_a_row_for_each_modality(tmp_path: Path) -> None:
    scene = _phantom()
    one, two = tmp_path / "one.png", tmp_path / "an overlay é.png"
    write_overlay(one, {"ct": scene["ct"]}, scene["labels"], TABLE)
    write_overlay(
        two,
        {"ct": scene["ct"], "mr": scene["mr"]},
        scene["labels"],
        TABLE,
        mask=scene["labels"],
        scribbles=scene["scribbles"],
        title="A case",
    )
    assert _png_size(two)[0] > 1.4 * _png_size(one)[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["an overlay é.png", "one.png"]


def test_overlay_is_the_same_each_time(tmp_path: Path) -> None:
    scene = _phantom()
    for name in ("a.png", "b.png"):
        write_overlay(tmp_path / name, {"mr": scene["mr"]}, scene["labels"], TABLE, scribbles=scene["scribbles"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_overlay_of_an_empty_segmentation_and_a_constant_image(tmp_path: Path) -> None:
    scene = _phantom()
    empty = scene["labels"].with_array(np.zeros(SHAPE, dtype=np.uint8))
    write_overlay(tmp_path / "empty.png", {"mr": empty.with_array(np.ones(SHAPE))}, empty, TABLE, mask=empty)
    assert (tmp_path / "empty.png").stat().st_size > 1000


def test_overlay_refuses_other_grids_and_no_image(tmp_path: Path) -> None:
    scene, other = _phantom(), _phantom(np.diag([1.0, 1.0, 5.0, 1.0]))
    with pytest.raises(GeometryError, match="scribbles"):
        write_overlay(tmp_path / "x.png", {"ct": scene["ct"]}, scene["labels"], TABLE, scribbles=other["scribbles"])
    with pytest.raises(InputError, match="1 to 6 images, got 0"):
        write_overlay(tmp_path / "x.png", {}, scene["labels"], TABLE)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_overlay(tmp_path / "file" / "x.png", {"ct": scene["ct"]}, scene["labels"], TABLE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_ct_in_hu_has_the_window_and_others_percentiles() -> None:
    hu = np.array([-1000.0, -160.0, 40.0, 240.0, 3000.0])
    np.testing.assert_allclose(windowed("CT_venous", hu), [0, 0, 0.5, 1, 1])
    eight_bit = np.linspace(0, 255, 1001)
    assert windowed("ct", eight_bit)[500] == pytest.approx(0.5, abs=0.01)


# LPS axes of i, j, k as columns.
@pytest.mark.parametrize(
    "columns",
    [
        ([1, 0, 0], [0, 1, 0], [0, 0, 1]),  # axial
        ([-1, 0, 0], [0, -1, 0], [0, 0, 1]),  # RAS
        ([0, 1, 0], [0, 0, -1], [1, 0, 0]),  # sagittal
        ([1, 0, 0], [0, 0, -1], [0, 1, 0]),  # coronal
    ],
)
def test_arrays_turn_to_the_patient_whatever_their_storage(columns: tuple[list[int], ...]) -> None:
    """Voxels hold their own position; after turning it grows along superior, posterior and left."""
    spacing = np.array([1.0, 2.0, 3.0])
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns, dtype=float).T * spacing
    k, j, i = np.indices((4, 5, 6))
    position = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ affine.T
    volume = Volume(np.zeros((4, 5, 6)), affine)
    axes = PatientAxes.of(volume)
    for axis, world in ((0, 2), (1, 1), (2, 0)):
        turned = axes.turn(position[..., world])
        np.testing.assert_allclose(np.diff(turned, axis=axis), axes.spacing[axis])
    assert axes.tilt_degrees == pytest.approx(0.0, abs=1e-6)


def test_oblique_grids_take_the_nearest_axes(oblique_volume: Volume) -> None:
    axes = PatientAxes.of(oblique_volume)
    assert axes.order == (0, 1, 2)
    assert axes.flips == (False, False, False)
    assert 10 < axes.tilt_degrees < 45


def test_planes_are_radiological() -> None:
    """In each picture the first row is on top and the first column on the left."""
    superior, posterior, left = np.indices((2, 3, 4))
    axial, coronal, sagittal = PLANES
    assert axial.cut(posterior, 0)[0, 0] == 0  # front on top
    assert axial.cut(left, 0)[0, -1] == 3  # the patient's left on the right
    assert coronal.cut(superior, 0)[0, 0] == 1  # head on top
    assert coronal.cut(left, 0)[0, -1] == 3
    assert sagittal.cut(superior, 0)[0, 0] == 1
    assert sagittal.cut(posterior, 0)[0, 0] == 0  # front on the left
    assert [plane.pixel((5.0, 2.0, 1.0)) for plane in PLANES] == [(2.0, 1.0), (5.0, 1.0), (5.0, 2.0)]


def test_best_slices_go_through_the_largest_label() -> None:
    labels = np.zeros((5, 9, 9), dtype=np.uint8)
    labels[1:4, 2:5, 6] = 1
    labels[3, 2:5, 5:8] = 1
    labels[0, 0, 0] = 2
    assert best_slices(labels) == (3, 3, 6)
    assert best_slices(np.zeros((5, 9, 9), dtype=np.uint8)) == (2, 4, 4)


def test_best_slice_prefers_one_with_scribbles() -> None:
    labels = np.zeros((4, 12, 12), dtype=np.uint8)
    labels[1, :10, :10] = 1
    labels[2, :9, :10] = 1
    scribbled = np.zeros(labels.shape, dtype=bool)
    scribbled[2, 4, 4] = True
    assert best_slices(labels)[0] == 1
    assert best_slices(labels, scribbled)[0] == 2


def test_curves_of_trainings_and_fits(tmp_path: Path) -> None:
    steps = [
        {"step": n, "seconds": n, "learning_rate": 0.1, "total": 3 / (n + 1), "ssl": 1 / (n + 1)} for n in range(90)
    ]
    validation = [
        {"step": 30, "dice": None, "dice_by_class": {"liver": None, "spleen": 0.2}},
        {"step": 60, "dice": 0.6, "dice_by_class": {"liver": 0.9, "spleen": 0.3}},
    ]
    write_curve({"steps": steps, "validation": validation}, tmp_path / "training.png")
    write_curve(steps, tmp_path / "fit.png")
    write_curve([{"step": 1, "total": float("nan")}, {"step": 2, "total": 0.5, "crf": 0.0}], tmp_path / "odd.png")
    write_curve({"steps": [], "validation": []}, tmp_path / "empty.png")
    heights = {path.stem: imread(path).shape[0] for path in tmp_path.iterdir()}
    assert heights["training"] > heights["fit"]
    assert set(heights) == {"training", "fit", "odd", "empty"}


def test_every_term_of_a_curve_looks_different(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = []
    monkeypatch.setattr("CrossModalSegLib.report.curve.save_png", lambda figure, *_: figures.append(figure))
    names = ["total", *(f"term {number}" for number in range(12))]
    steps = [{"step": n, **dict.fromkeys(names, 1.0 + n)} for n in range(3)]
    classes = {f"class {number}": 0.5 for number in range(14)}
    validation = [{"step": 2, "dice": 0.5, "dice_by_class": classes}]
    write_curve({"steps": steps, "validation": validation}, tmp_path / "curve.png")
    for panel, count in zip(figures[0].axes, (13, 15)):
        looks = [(line.get_color(), line._unscaled_dash_pattern) for line in panel.lines]
        assert len(set(looks)) == len(looks) == count


def test_smoothing_keeps_constants_and_averages() -> None:
    np.testing.assert_allclose(smoothed(np.full(7, 2.0), 3), 2.0)
    np.testing.assert_allclose(smoothed(np.array([0.0, 3.0, 0.0]), 3), [1.5, 1.0, 1.5])


def test_drawing_does_not_touch_the_global_state_of_matplotlib() -> None:
    code = "import CrossModalSegLib.report, sys; print('matplotlib.pyplot' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
