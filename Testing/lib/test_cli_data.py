"""simulate, simulate-mr, scribble, register: files in, files out, and nothing on failure."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from cli_support import SHAPE, affine, content, image_array, mask_array, run, write_case

from CrossModalSegLib.cohort import load_case, read_cohort
from CrossModalSegLib.io import read_segmentation, read_volume, write_segmentation, write_volume
from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.volume import Volume, same_geometry

TINY = ("--shape", 8, 32, 32, "--spacing", 14, 6, 6)


def test_simulate_writes_a_cohort_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "Köpfe 1"
    result = run(capsys, "simulate", "--out", out, "--cases", 2, "--folds", 2, "--quiet", *TINY)
    assert result.code == 0
    assert str(out / "cohort.json") in result.out
    cohort = read_cohort(out / "cohort.json")
    assert [case.fold for case in cohort.cases] == [0, 1]
    loaded = load_case(cohort.cases[0], cohort)
    assert loaded.grid.shape == (8, 32, 32)
    assert set(np.unique(loaded.scribbles.array)) == {0, 1, UNLABELLED}


def test_simulate_is_decided_by_its_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert (
            run(capsys, "simulate", "--out", tmp_path / name, "--cases", 1, "--seed", seed, "--quiet", *TINY).code == 0
        )
    first, second, third = (read_volume(tmp_path / name / "head01" / "mr.nii.gz").array for name in "abc")
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)


def test_simulate_never_writes_over_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    before = content(tmp_path)
    error = run(capsys, "simulate", "--out", tmp_path / "mine", "--cases", 1).error
    assert "exists and is not empty" in error
    assert "--overwrite" in error
    assert content(tmp_path) == before


def test_simulate_names_the_bad_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at least one case" in run(capsys, "simulate", "--out", tmp_path / "x", "--cases", 0).error
    assert (
        "field strength" in run(capsys, "simulate", "--out", tmp_path / "x", "--cases", 1, "--field-strength", 7).error
    )
    assert content(tmp_path) == set()


def test_simulate_mr_is_on_the_grid_of_the_ct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    out = tmp_path / "mr.nrrd"
    words = ("simulate-mr", "--ct", paths["ct"], "--mask", paths["mask"], "--labels", "liver", "spleen", "--out", out)
    assert run(capsys, *words).code == 0
    assert same_geometry(read_volume(out), read_volume(paths["ct"]))


def test_scribbles_lie_within_their_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    out = tmp_path / "s.nii.gz"
    result = run(capsys, "scribble", "--mask", paths["mask_seg"], "--out", out, "--every", 2, "--seed", 3)
    assert result.code == 0
    assert "brainstem: " in result.out
    scribbles = read_volume(out).array
    drawn = scribbles != UNLABELLED
    assert 0 < drawn.mean() < 0.5
    assert np.array_equal(scribbles[drawn], mask_array()[drawn])


def test_scribbles_as_segments_have_one_named_background(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    for name in ("s.nii.gz", "s.seg.nrrd"):
        words = ("scribble", "--mask", paths["mask"], "--labels", "GTV", "Hirnstamm ä", "--out", tmp_path / name)
        assert run(capsys, *words).code == 0
    plain = read_volume(tmp_path / "s.nii.gz").array
    segments, table = read_segmentation(tmp_path / "s.seg.nrrd")
    assert table.names == ("GTV", "Hirnstamm ä", "Background")
    assert np.array_equal(segments.array == 3, plain == 0)
    assert np.array_equal(segments.array == 1, plain == 1)


def test_segments_of_a_mask_are_found_by_name_and_its_box_is_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slicer's file holds a box, a segment "Background", and the classes in another order than they are named."""
    paths = write_case(tmp_path)
    image = read_volume(paths["ct"])
    low = np.argwhere(mask_array()).min(axis=0)
    box_affine = image.affine.copy()
    box_affine[:3, 3] += image.affine[:3, :3] @ low[::-1]
    box = mask_array()[tuple(slice(start, None) for start in low)]
    turned = np.choose(box, (3, 2, 1)).astype(np.uint8)
    write_segmentation(
        Volume(turned, box_affine), LabelTable.from_names(["stem", "GTV", "Background"]), tmp_path / "box.seg.nrrd"
    )
    words = ("scribble", "--mask", tmp_path / "box.seg.nrrd", "--image", paths["ct"], "--out", tmp_path / "s.nii.gz")
    assert run(capsys, *words, "--labels", "GTV", "stem").code == 0
    scribbles = read_volume(tmp_path / "s.nii.gz")
    assert same_geometry(scribbles, image)
    drawn = scribbles.array != UNLABELLED
    assert {1, 2} <= set(np.unique(scribbles.array[drawn]))
    assert np.array_equal(scribbles.array[drawn], mask_array()[drawn])
    assert "unknown names: stem" in run(capsys, *words, "--labels", "GTV", "liver", "--overwrite").error
    words = ("simulate-mr", "--ct", paths["ct"], "--mask", tmp_path / "box.seg.nrrd", "--out", tmp_path / "mr.nii.gz")
    assert run(capsys, *words).code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mask", "{missing}"), "missing.nii.gz"),
        (("--mask", "{ct}"), "whole numbers"),
        (("--mask", "{mask}", "--labels", "GTV"), "Name all of them"),
        (("--mask", "{white}"), "white.nii.gz' holds values up to 255, but classes are numbered from 1 to 254 at most"),
        (("--mask", "{mask}", "--every", "0"), "n >= 1"),
        (("--mask", "{mask}", "--thickness", "0"), "at least 1 pixel"),
        (("--mask", "{mask}", "--image", "{other}"), "'mask' and 'image' should share one grid"),
    ],
)
def test_scribble_says_what_is_wrong(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    paths |= {name: tmp_path / f"{name}.nii.gz" for name in ("missing", "other", "white")}
    write_volume(Volume(image_array(1), affine((100.0, 0.0, 0.0))), paths["other"])
    write_volume(Volume(255 * (mask_array() > 0).astype(np.uint8), affine()), paths["white"])
    before = content(tmp_path)
    filled = [word.format(**paths) for word in words]
    assert message in run(capsys, "scribble", "--out", tmp_path / "s.nii.gz", *filled).error
    assert content(tmp_path) == before


def test_scribble_keeps_an_existing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    out = tmp_path / "s.nii.gz"
    out.write_bytes(b"mine")
    assert "--overwrite" in run(capsys, "scribble", "--mask", paths["mask"], "--out", out).error
    assert out.read_bytes() == b"mine"
    assert run(capsys, "scribble", "--mask", paths["mask"], "--out", out, "--overwrite").code == 0
    assert read_volume(out).shape == SHAPE


@pytest.mark.skipif(os.name == "nt", reason="folder permissions are those of POSIX systems")
@pytest.mark.parametrize("place", ["file.txt/s.nii.gz", "/proc/s.nii.gz", "s.docx"])
def test_unwritable_places_are_named_before_work(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    (tmp_path / "file.txt").write_text("")
    before = content(tmp_path)
    error = run(capsys, "scribble", "--mask", paths["mask"], "--out", tmp_path / place).error
    assert Path(place).parts[0].strip("/") in error
    assert content(tmp_path) == before


def test_register_recovers_a_shift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    k, j, i = np.indices((12, 32, 32))
    blob = 1000 * np.exp(-(((k - 5) / 3) ** 2 + ((j - 14) / 6) ** 2 + ((i - 17) / 4) ** 2))
    blob += 500 * np.exp(-(((k - 7) / 2) ** 2 + ((j - 20) / 3) ** 2 + ((i - 9) / 5) ** 2))
    grid = np.diag([2.0, 2.0, 3.0, 1.0])
    moved = grid.copy()
    moved[0, 3] = 6.0
    fixed, moving = tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"
    write_volume(Volume(blob.astype(np.float32), grid), fixed)
    write_volume(Volume(blob.astype(np.float32), moved), moving)
    out, transform = tmp_path / "out.nii.gz", tmp_path / "t.tfm"
    words = ("--fixed", fixed, "--moving", moving, "--out", out, "--transform", transform, "--threads", 1)
    result = run(capsys, "register", *words, "--quiet")
    assert result.code == 0
    assert "mutual information" in result.out
    assert transform.is_file()
    assert np.abs(read_volume(out).array - blob).mean() < 0.2 * np.abs(np.roll(blob, 3, axis=2) - blob).mean()


def test_register_refuses_a_transform_of_unknown_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    words = ("--fixed", paths["ct"], "--moving", paths["mr"], "--out", tmp_path / "o.nii.gz")
    assert ".tfm" in run(capsys, "register", *words, "--transform", tmp_path / "t.docx").error
    assert not (tmp_path / "o.nii.gz").exists()


@pytest.mark.parametrize("threads", [-1, 0, 10**10])
def test_register_refuses_numbers_of_threads_that_there_cannot_be(
    threads: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_case(tmp_path)
    words = ("--fixed", paths["ct"], "--moving", paths["mr"], "--out", tmp_path / "o.nii.gz", "--threads", threads)
    assert f"got {threads}" in run(capsys, "register", *words, "--quiet").error


def test_inputs_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    before = {name: path.read_bytes() for name, path in paths.items()}
    ct, mr, mask = paths["ct"], paths["mr"], paths["mask"]
    for words in (
        ("register", "--fixed", ct, "--moving", mr, "--out", mr),
        ("scribble", "--mask", mask, "--out", mask),
        ("simulate-mr", "--ct", ct, "--mask", mask, "--out", ct),
    ):
        assert "would take away the input" in run(capsys, *words, "--overwrite").error
    assert {name: path.read_bytes() for name, path in paths.items()} == before


def test_negative_seeds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_case(tmp_path)
    ct, mask, out = paths["ct"], paths["mask"], tmp_path / "o.nii.gz"
    for words in (
        ("register", "--fixed", ct, "--moving", ct),
        ("scribble", "--mask", mask),
        ("simulate-mr", "--ct", ct, "--mask", mask),
        ("simulate", "--cases", 1),
        ("train", "cmfnet", "--cohort", "c.json"),
        ("train", "prior", "--cohorts", "c.json"),
    ):
        assert "--seed should be a whole number from 0" in run(capsys, *words, "--out", out, "--seed", -1).error
    words = ("train", "prior", "--cohorts", "c.json", "--out", out, "--minutes", "inf")
    assert "--minutes should be above 0 and finite" in run(capsys, *words).error


def test_register_says_before_work_that_nifti_cannot_hold_a_tilted_gantry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheared = affine()
    sheared[1, 2] = 1.5
    write_volume(Volume(image_array(1), sheared), tmp_path / "ct.nrrd")
    words = ("register", "--fixed", tmp_path / "ct.nrrd", "--moving", tmp_path / "ct.nrrd", "--quiet")
    assert "Name a .nrrd or .mha file" in run(capsys, *words, "--out", tmp_path / "o.nii.gz").error
