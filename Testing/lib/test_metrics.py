from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from numpy.testing import assert_allclose

from CrossModalSegLib.errors import Cancelled, GeometryError, InputError, LabelError
from CrossModalSegLib.io import read_volume, write_volume
from CrossModalSegLib.io.segmentation_io import write_segmentation
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.metrics import evaluate_files, evaluate_folder, evaluate_segmentation
from CrossModalSegLib.metrics.segmentation import DEFAULT_TOLERANCES_MM
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.volume import Volume, milliliters

ONE = LabelTable.from_names(["liver"])
TWO = LabelTable.from_names(["liver", "spleen"])


def _volume(array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume(np.asarray(array, dtype=np.uint8), np.diag([*spacing[::-1], 1.0]))


def _cube(
    start: tuple[int, int, int], size: int = 6, shape: tuple[int, int, int] = (16, 18, 20), value: int = 1
) -> np.ndarray:
    array = np.zeros(shape, dtype=np.uint8)
    array[tuple(slice(first, first + size) for first in start)] = value
    return array


def test_two_voxels_two_mm_apart() -> None:
    first, second = np.zeros((3, 3, 4)), np.zeros((3, 3, 4))
    first[1, 1, 1] = second[1, 1, 2] = 1
    liver = evaluate_segmentation(_volume(first, (5, 3, 2)), _volume(second, (5, 3, 2)), ONE).by_name("liver")
    assert liver.dsc == 0.0
    assert liver.asd_mm == 2.0
    assert liver.hd95_mm == 2.0
    assert liver.status == "ok"
    assert_allclose(liver.volume_ml, 0.03)
    assert_allclose(liver.reference_ml, 0.03)


def test_distances_on_a_tilted_gantry_are_those_in_the_patient() -> None:
    """Slices 4 mm apart, each moved by -3 mm along j: one voxel up and one along j are (0, -1, 4) mm away."""
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    affine[1, 2] = -3.0
    first, second = np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4, 3), np.uint8)
    first[0, 1, 1] = second[1, 2, 1] = 1
    liver = evaluate_segmentation(Volume(first, affine), Volume(second, affine), ONE, (4.0, 4.2)).by_name("liver")
    assert_allclose((liver.asd_mm, liver.hd95_mm), 17**0.5)
    assert liver.nsd[1] > liver.nsd[0]


def test_equal_masks_are_perfect() -> None:
    report = evaluate_segmentation(_volume(_cube((3, 3, 3))), _volume(_cube((3, 3, 3))), ONE)
    liver = report.labels[0]
    assert (liver.dsc, liver.asd_mm, liver.hd95_mm, liver.nsd) == (1.0, 0.0, 0.0, (1.0, 1.0))
    exact = evaluate_segmentation(_volume(_cube((3, 3, 3))), _volume(_cube((3, 3, 3))), ONE, tolerances_mm=(0.0,))
    assert exact.labels[0].nsd == (1.0,)


def test_cube_shifted_across_slices_uses_the_spacing() -> None:
    """A 6³ cube moved by one slice of 3 mm; 152 of its 216 voxels are border, 36 of these at 3 mm on either side."""
    spacing = (3.0, 1.0, 1.0)
    report = evaluate_segmentation(_volume(_cube((3, 5, 5)), spacing), _volume(_cube((4, 5, 5)), spacing), ONE)
    liver = report.labels[0]
    assert_allclose(liver.dsc, 5 / 6)
    # The lid is 3 mm away but for its rim, which lies 3 mm from the other's rim too; the foot's inside is at most 2 mm
    # from the side walls: rings of 20, 12 and 4 voxels of which the outermost touches the other's border.
    far, foot = 36 * 3.0, 12 * 1.0 + 4 * 2.0
    assert_allclose(liver.asd_mm, (far + foot) / 152, rtol=1e-6)
    assert liver.hd95_mm == 3.0
    moved = evaluate_segmentation(_volume(_cube((3, 5, 5)), spacing), _volume(_cube((3, 5, 6)), spacing), ONE).labels[0]
    assert moved.hd95_mm == 1.0
    assert moved.nsd == (1.0, 1.0)
    assert liver.nsd[0] < liver.nsd[1] < 1.0


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")  # MONAI calls itself so
@pytest.mark.parametrize("shift", [0, 3])
def test_cropped_measures_equal_those_of_monai_on_whole_volumes(shift: int) -> None:
    """Random blobs, inside and (shift 3) cut by the border of the grid."""
    spacing = (2.5, 0.8, 1.1)
    rng = np.random.default_rng(shift)
    masks = [np.zeros((20, 30, 28), dtype=np.uint8) for _ in range(2)]
    for mask in masks:
        for value in (1, 2):
            corner = rng.integers(4, 8, 3) + (0 if value == 1 else 6) - shift * 2
            low = np.maximum(corner, 0)
            block = mask[tuple(slice(int(start), int(start) + 7) for start in low)]
            block[rng.random(block.shape) < 0.9] = value
    report = evaluate_segmentation(_volume(masks[0], spacing), _volume(masks[1], spacing), TWO)
    one_hot = [torch.from_numpy(np.stack([mask == value for value in (1, 2)])[None]).float() for mask in masks]
    options = {"include_background": True, "spacing": spacing}
    columns = [
        ([label.dsc for label in report.labels], compute_dice(*one_hot)),
        (
            [label.asd_mm for label in report.labels],
            compute_average_surface_distance(*one_hot, symmetric=True, **options),
        ),
        ([label.hd95_mm for label in report.labels], compute_hausdorff_distance(*one_hot, percentile=95, **options)),
        *(
            (
                [label.nsd[index] for label in report.labels],
                compute_surface_dice(*one_hot, class_thresholds=[t, t], use_subvoxels=True, **options),
            )
            for index, t in enumerate((1.0, 2.0))
        ),
    ]
    for ours, theirs in columns:
        assert_allclose(ours, theirs.numpy()[0], rtol=1e-5)


def test_empty_masks_are_reported_and_never_silent() -> None:
    prediction, mask = _cube((1, 1, 1), value=1), _cube((1, 1, 1), value=2)
    table = LabelTable.from_names(["liver", "spleen", "stomach"])
    report = evaluate_segmentation(_volume(prediction), _volume(mask), table)
    liver, spleen, stomach = report.labels
    assert [label.status for label in report.labels] == ["mask_empty", "prediction_empty", "both_empty"]
    assert (liver.dsc, liver.asd_mm, liver.hd95_mm, liver.nsd) == (0.0, None, None, (0.0, 0.0))
    assert (spleen.dsc, spleen.volume_ml, spleen.reference_ml) == (0.0, 0.0, 0.216)
    assert (stomach.dsc, stomach.nsd) == (None, (None, None))
    assert report.mean_dsc == 0.0
    assert report.mean_asd_mm is None
    assert report.counts == {"ok": 0, "both_empty": 1, "prediction_empty": 1, "mask_empty": 1}
    text = report.table()
    assert "missed" in text
    assert "not in reference" in text
    assert "nan" not in text.lower()


def test_labels_that_neither_holds_do_not_change_the_mean() -> None:
    report = evaluate_segmentation(_volume(_cube((1, 1, 1))), _volume(_cube((1, 1, 1))), TWO)
    assert report.mean_dsc == 1.0
    assert report.mean_nsd == (1.0, 1.0)


def test_report_as_json_and_table() -> None:
    report = evaluate_segmentation(_volume(_cube((1, 1, 1))), _volume(_cube((1, 1, 2))), TWO, tolerances_mm=(0.5,))
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["labels"][0]["name"] == "liver"
    assert data["labels"][0]["nsd@0.5mm"] == report.labels[0].nsd[0]
    assert data["mean"]["dsc"] == report.mean_dsc
    assert data["counts"]["both_empty"] == 1
    lines = report.table().splitlines()
    assert lines[0].split()[:3] == ["label", "DSC", "ASD"]
    assert lines[2].split()[:2] == ["liver", "0.833"]
    assert lines[-1].startswith("mean")
    with pytest.raises(LabelError, match="no label 'heart'"):
        report.by_name("heart")


def test_volumes_of_large_labels_are_counted_in_little_memory() -> None:
    labels = _volume(_cube((3, 3, 3), size=5, shape=(64, 128, 128)), (2.0, 1.0, 1.0))
    tracemalloc.start()
    found = milliliters(labels, TWO)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {"liver": pytest.approx(0.25), "spleen": 0.0}
    assert peak < labels.array.nbytes


def test_other_grids_labels_and_tolerances_are_refused() -> None:
    cube = _cube((1, 1, 1))
    with pytest.raises(GeometryError, match="prediction"):
        evaluate_segmentation(_volume(cube), _volume(cube, (2, 1, 1)), ONE)
    with pytest.raises(LabelError, match="The prediction holds the values 3, but the labels are 0"):
        evaluate_segmentation(_volume(cube * 3), _volume(cube), TWO)
    halves = Volume(np.where(cube, np.nan, 0.5), np.eye(4))
    with pytest.raises(LabelError, match=r"The mask holds the values 0\.5, nan"):
        evaluate_segmentation(_volume(cube), halves, TWO)
    with pytest.raises(InputError, match="tolerances must be numbers of mm"):
        evaluate_segmentation(_volume(cube), _volume(cube), ONE, tolerances_mm=(-1.0,))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two cases: one perfect, one that misses the spleen; other suffixes in the two folders; a name with a blank."""
    predictions, masks = tmp_path / "prédiction", tmp_path / "masks"
    predictions.mkdir()
    masks.mkdir()
    both = _cube((1, 1, 1)) + _cube((9, 9, 9), value=2)
    for name, predicted in (("case 1", both), ("case 2", _cube((1, 1, 1)))):
        write_segmentation(_volume(predicted), TWO, predictions / f"{name}.seg.nrrd")
        write_segmentation(_volume(both), TWO, masks / f"{name}.nii.gz")
    return predictions, masks


def test_folder_is_paired_by_name(folders: tuple[Path, Path]) -> None:
    seen = []
    report = evaluate_folder(*folders, on_case=lambda *event: seen.append(event))
    assert [case.name for case in report.cases] == ["case 1", "case 2"]
    assert seen == [(0, 2, "case 1"), (1, 2, "case 2")]
    assert report.mean_dsc == 0.75
    assert list(report.by_label()) == ["liver", "spleen"]
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["labels"]["spleen"]["counts"]["prediction_empty"] == 1
    means = {name: value for name, value in data["labels"]["liver"].items() if name.startswith("nsd@")}
    assert means == {f"nsd@{tolerance:g}mm": 1.0 for tolerance in DEFAULT_TOLERANCES_MM}
    assert "0.500 ± 0.500" in report.table()
    assert "1 missed" in report.table()


def test_a_folder_has_the_mean_of_every_measure_over_its_labels(folders: tuple[Path, Path]) -> None:
    moved = _cube((2, 1, 1)) + _cube((9, 9, 9), value=2)
    write_segmentation(_volume(moved), TWO, folders[0] / "case 1.seg.nrrd")
    report = evaluate_folder(*folders)
    labels = report.to_json()["labels"]
    assert labels["liver"]["asd_mm"] > 0 and labels["spleen"]["asd_mm"] == 0
    assert report.to_json()["mean"] == {
        name: pytest.approx((value + labels["spleen"][name]) / 2)
        for name, value in labels["liver"].items()
        if name != "counts"
    }
    last = report.table().splitlines()[-1].split()
    assert last[:3] == ["mean", f"{report.mean_dsc:.3f}", f"{labels['liver']['asd_mm'] / 2:.2f}"]


def test_a_label_in_few_cases_counts_as_much_as_one_in_all(folders: tuple[Path, Path]) -> None:
    for name in ("case 2", "case 3"):
        for folder in folders:
            write_segmentation(_volume(_cube((1, 1, 1))), TWO, folder / f"{name}.seg.nrrd")
    (folders[1] / "case 2.nii.gz").unlink()
    write_segmentation(_volume(_cube((1, 1, 1))), TWO, folders[0] / "case 1.seg.nrrd")
    report = evaluate_folder(*folders)  # the liver is found in three cases, the spleen missed in the one that has it
    assert report.mean_dsc == report.means["dsc"] == 0.5


def test_hidden_files_of_a_folder_do_not_count(folders: tuple[Path, Path]) -> None:
    (folders[0] / "._case 1.seg.nrrd").write_bytes(b"attributes")
    assert len(evaluate_folder(*folders).cases) == 2


def test_files_without_stored_names_get_numbers(folders: tuple[Path, Path]) -> None:
    report = evaluate_files(folders[1] / "case 1.nii.gz", folders[1] / "case 1.nii.gz")
    assert [label.name for label in report.labels] == ["label 1", "label 2"]


def test_values_beyond_a_table_are_refused_with_the_file(tmp_path: Path) -> None:
    write_volume(Volume(np.array([[[0, 1000]]], np.int16), np.eye(4)), tmp_path / "many.nrrd")
    with pytest.raises(LabelError, match=r"up to 254 .* got 1000; number the labels anew.*many\.nrrd"):
        evaluate_files(tmp_path / "many.nrrd", tmp_path / "many.nrrd")


def test_folder_errors_name_the_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, masks = folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no segmentation"):
        evaluate_folder(tmp_path / "empty", masks)
    with pytest.raises(InputError, match="is not a folder"):
        evaluate_folder(tmp_path / "nowhere", masks)
    write_segmentation(_volume(_cube((1, 1, 1))), TWO, predictions / "case 3.nrrd")
    with pytest.raises(InputError, match="case 3 only in .*diction"):
        evaluate_folder(predictions, masks)
    write_segmentation(_volume(_cube((1, 1, 2))), TWO, predictions / "case 3.seg.nrrd")
    with pytest.raises(InputError, match=r"two files for the case 'case 3'.*: case 3\.nrrd and case 3\.seg\.nrrd"):
        evaluate_folder(predictions, masks)


def test_an_image_beside_the_segmentation_of_its_name_is_no_copy_of_it(folders: tuple[Path, Path]) -> None:
    image = read_volume(folders[0] / "case 1.seg.nrrd")
    write_volume(image.with_array(image.array + np.float32(0.5)), folders[0] / "case 1.mha")
    with pytest.raises(InputError, match="two files for the case 'case 1'"):
        evaluate_folder(*folders)


def test_a_folder_may_hold_cases_twice_with_what_is_written_beside_them(folders: tuple[Path, Path]) -> None:
    predictions, masks = folders
    expected = evaluate_folder(predictions, masks)
    for path in sorted(predictions.iterdir()):
        name = path.name.removesuffix(".seg.nrrd")
        write_volume(read_volume(path), predictions / f"{name}.nii.gz")
        write_volume(read_volume(path), predictions / f"{name}_probability_1_liver.nii.gz")
        write_volume(read_volume(path), predictions / f"{name}_uncertainty.nii.gz")
    assert evaluate_folder(predictions, masks) == expected


def test_a_case_called_as_a_probability_is_still_a_case(folders: tuple[Path, Path]) -> None:
    predictions, masks = folders
    for folder in folders:
        write_segmentation(_volume(_cube((1, 1, 1))), TWO, folder / "case 1_uncertainty.nii.gz")
    assert len(evaluate_folder(predictions, masks).cases) == 3
    (masks / "case 1_uncertainty.nii.gz").rename(masks / "x_uncertainty.nii.gz")
    (predictions / "case 1_uncertainty.nii.gz").rename(predictions / "y_uncertainty.nii.gz")
    with pytest.raises(InputError, match="y_uncertainty only in"):
        evaluate_folder(predictions, masks)


def test_a_cut_segmentation_is_the_same_as_its_label_map(folders: tuple[Path, Path]) -> None:
    whole = _volume(_cube((1, 1, 1)))
    write_volume(whole, folders[0] / "case 2.nii.gz")
    cut = Volume(whole.array[1:, 1:], whole.affine @ [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]])
    write_segmentation(cut, TWO, folders[0] / "case 2.seg.nrrd")
    assert len(evaluate_folder(*folders).cases) == 2


def test_segments_that_only_the_mask_has_are_named_and_not_measured(tmp_path: Path) -> None:
    three = LabelTable.from_names(["kidney", "spleen", "liver"])
    mask = _cube((1, 1, 1), value=3) + _cube((9, 9, 9), value=2)
    mask[12:] = 1
    write_segmentation(_volume(mask), three, tmp_path / "mask.seg.nrrd")
    answer = _cube((1, 1, 1)) + _cube((9, 9, 9), value=2)
    answer[12:] = 0
    write_segmentation(_volume(answer), TWO, tmp_path / "answer.seg.nrrd")
    report = evaluate_files(tmp_path / "answer.seg.nrrd", tmp_path / "mask.seg.nrrd")
    assert [(label.name, label.dsc) for label in report.labels] == [("liver", 1.0), ("spleen", 1.0)]
    assert report.left_out == ("kidney",)
    assert report.to_json()["left_out"] == ["kidney"]
    with pytest.raises(LabelError, match="unknown names: kidney"):
        evaluate_files(tmp_path / "answer.seg.nrrd", tmp_path / "mask.seg.nrrd", TWO)


def test_a_mask_that_lacks_a_segment_of_the_answer_has_it_under_another_name(tmp_path: Path) -> None:
    both = _cube((1, 1, 1)) + _cube((9, 9, 9), value=2)
    write_segmentation(_volume(both), TWO, tmp_path / "answer.seg.nrrd")
    other = LabelTable.from_names(["liver", "Milz"])
    write_segmentation(_volume(both), other, tmp_path / "mask.seg.nrrd")
    with pytest.raises(LabelError, match="unknown names: Milz"):
        evaluate_files(tmp_path / "answer.seg.nrrd", tmp_path / "mask.seg.nrrd")


def test_a_case_on_another_grid_is_named(folders: tuple[Path, Path]) -> None:
    predictions, masks = folders
    write_segmentation(_volume(_cube((1, 1, 1)), (2, 1, 1)), TWO, masks / "case 2.nii.gz")
    with pytest.raises(GeometryError, match=r"case 2\.seg\.nrrd"):
        evaluate_folder(predictions, masks)


def test_two_boxes_cut_from_one_grid_are_measured_on_a_common_one(tmp_path: Path) -> None:
    whole = _volume(_cube((3, 5, 6)), (3.0, 1.0, 2.0))
    for name, start in (("a", (2, 4, 5)), ("b", (3, 5, 2))):
        affine = whole.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start[::-1]
        cut = Volume(whole.array[tuple(slice(first, 14) for first in start)], affine)
        write_segmentation(cut, ONE, tmp_path / f"{name}.seg.nrrd")
    liver = evaluate_files(tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd").labels[0]
    assert (liver.dsc, liver.hd95_mm) == (1.0, 0.0)


def test_boxes_that_hold_nothing_of_one_another_are_measured_in_the_patient(tmp_path: Path) -> None:
    """One voxel each, the second three slices of 3 mm further and two columns of 2 mm back."""
    for name, place in (("a", (1, 2, 3)), ("b", (4, 2, 1))):
        affine = np.diag([2.0, 1.0, 3.0, 1.0])
        affine[:3, 3] = affine[:3, :3] @ place[::-1]
        write_segmentation(Volume(np.ones((1, 1, 1), np.uint8), affine), ONE, tmp_path / f"{name}.seg.nrrd")
    for first, second in ("ab", "ba"):
        liver = evaluate_files(tmp_path / f"{first}.seg.nrrd", tmp_path / f"{second}.seg.nrrd").labels[0]
        assert (liver.dsc, liver.volume_ml, liver.reference_ml) == (0.0, 0.006, 0.006)
        assert_allclose(liver.hd95_mm, (9**2 + 4**2) ** 0.5)


def test_a_label_map_on_a_part_of_the_grid_is_no_cut_box(tmp_path: Path) -> None:
    write_volume(_volume(_cube((1, 1, 1))), tmp_path / "whole.nii.gz")
    write_volume(_volume(_cube((1, 1, 1), shape=(9, 9, 9))), tmp_path / "part.nii.gz")
    with pytest.raises(GeometryError, match="should share one grid"):
        evaluate_files(tmp_path / "part.nii.gz", tmp_path / "whole.nii.gz")


def test_segments_of_unknown_names_are_an_error(tmp_path: Path) -> None:
    for name in ("liver", "lever"):
        table = LabelTable.from_names([name])
        write_segmentation(_volume(_cube((3, 3, 3))), table, tmp_path / f"{name}.seg.nrrd")
    with pytest.raises(LabelError, match="unknown names: lever"):
        evaluate_files(tmp_path / "liver.seg.nrrd", tmp_path / "lever.seg.nrrd")


def test_measuring_tells_each_surface_and_stops_between_two_on_request():
    rng = np.random.default_rng(0)
    ragged = [_volume(rng.random((6, 8, 8)) < 0.5) for _ in range(2)]
    cancel, told = CancelToken(), []

    def progress(done: int, total: int, *_: object) -> None:
        told.append((done, total))
        if len(told) == 4:
            cancel.cancel()

    with pytest.raises(Cancelled):
        evaluate_segmentation(*ragged, ONE, progress=progress, cancel=cancel)
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4)]
