from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from CrossModalSegLib.cohort import (
    Case,
    Cohort,
    as_file_name,
    check_result_names,
    cohort_from_nnunet,
    load_case,
    read_cohort,
    write_cohort,
)
from CrossModalSegLib.errors import CohortError, CrossModalSegError, GeometryError, InputError, LabelError
from CrossModalSegLib.io import write_segmentation, write_volume
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.volume import Volume
from grids import grid_affine

TABLE = LabelTable.from_names(["liver", "spleen"])
AFFINE = grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0))
SHAPE = (4, 6, 5)


def scribble_array() -> np.ndarray:
    array = np.full(SHAPE, 255, np.uint8)
    array[1, 1, 1:3], array[2, 2, 2], array[3, 5] = 1, 2, 0
    return array


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a space and an umlaut, and the files of two cases."""
    root = tmp_path / "Kohorte ä"
    for name in ("a", "b"):
        for modality in ("ct", "mr"):
            image = Volume(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), AFFINE)
            write_volume(image, root / name / f"{modality}.nii.gz")
        write_volume(Volume(scribble_array(), AFFINE), root / name / "scribbles.nii.gz")
        write_volume(Volume((scribble_array() % 255), AFFINE), root / name / "mask.nii.gz")
    return root


def cohort_in(folder: Path) -> Cohort:
    cases = tuple(
        Case(
            name,
            {"ct": folder / name / "ct.nii.gz", "mr": folder / name / "mr.nii.gz"},
            folder / name / "scribbles.nii.gz",
            folder / name / "mask.nii.gz" if name == "a" else None,
            fold,
        )
        for fold, name in enumerate("ab")
    )
    return Cohort(("ct", "mr"), TABLE, ScribbleConvention.INTERNAL, cases, folder)


def document(folder: Path) -> dict:
    write_cohort(cohort_in(folder), folder / "document.json")
    return json.loads((folder / "document.json").read_text(encoding="utf-8"))


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cohort.json", "cohort.csv", "sub folder/cohort.json", "sub folder/cohort.CSV"])
def test_round_trip(folder: Path, name: str):
    cohort = cohort_in(folder)
    write_cohort(cohort, folder / name)
    back = read_cohort(folder / name)
    assert back.cases == cohort.cases
    assert (back.modalities, back.labels, back.convention) == (("ct", "mr"), TABLE, ScribbleConvention.INTERNAL)
    assert str(folder) not in (folder / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["cohort.json", "cohort.csv"])
def test_a_convention_without_background_survives(folder: Path, name: str):
    cohort = cohort_in(folder)
    without = Cohort(cohort.modalities, TABLE, ScribbleConvention(0, None), cohort.cases, folder)
    write_cohort(without, folder / name)
    assert read_cohort(folder / name).convention == ScribbleConvention(0, None)


@pytest.mark.parametrize("name", ["cohort.json", "cohort.csv"])
def test_labels_with_commas_and_quotes_survive(folder: Path, name: str):
    cohort = cohort_in(folder)
    table = LabelTable.from_names(["lobe, left,", 'part "a"', '"b",', "#1: c"])
    write_cohort(Cohort(cohort.modalities, table, cohort.convention, cohort.cases, folder), folder / name)
    assert read_cohort(folder / name).labels == table


def test_a_cohort_that_moves_with_its_files(folder: Path, tmp_path: Path):
    write_cohort(cohort_in(folder), folder / "cohort.json")
    folder.rename(tmp_path / "moved")
    cohort = read_cohort(tmp_path / "moved" / "cohort.json")
    assert cohort.cases[0].images["ct"] == tmp_path / "moved" / "a" / "ct.nii.gz"


def test_csv_by_hand(folder: Path):
    (folder / "hand.csv").write_text(
        "\ufeff# label: liver\n#label:spleen\n# scribbles: unlabelled=255 background=0\n\n"
        "name,image:ct,scribbles,fold\n a , a/ct.nii.gz,,\n\nb,b/ct.nii.gz,b/scribbles.nii.gz,2\n",
        encoding="utf-8",
    )
    cohort = read_cohort(folder / "hand.csv")
    assert cohort.modalities == ("ct",)
    assert cohort.labels == TABLE
    assert [(case.name, case.fold, case.scribbles is None, case.mask) for case in cohort.cases] == [
        ("a", None, True, None),
        ("b", 2, False, None),
    ]


def test_csv_that_a_spreadsheet_saved(folder: Path):
    """It fills all lines up to the same number of cells, and quotes those that hold a comma."""
    (folder / "saved.csv").write_text(
        '# label: liver,,\r\n"# label: spleen, ""left"" part",,\r\n# scribbles: unlabelled=255 background=0,,\r\n,,\r\n'
        "name,image:ct,scribbles\r\na,a/ct.nii.gz,a/scribbles.nii.gz\r\n",
        newline="",
    )
    cohort = read_cohort(folder / "saved.csv")
    assert cohort.labels.names == ("liver", 'spleen, "left" part')
    assert cohort.convention == ScribbleConvention.INTERNAL


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_that_a_spreadsheet_of_another_language_saved(folder: Path, separator: str):
    text = (
        '# label: liver,,\n"# label: spleen; left",,\n# scribbles: unlabelled=255 background=0,,\n,,\n'
        "name,image:ct,scribbles\na,a/ct.nii.gz,a/scribbles.nii.gz\n"
    )
    (folder / "saved.csv").write_text(text.replace(",", separator))
    cohort = read_cohort(folder / "saved.csv")
    assert cohort.labels.names == ("liver", "spleen; left")
    assert cohort.cases[0].images["ct"] == folder / "a" / "ct.nii.gz"


def test_empty_columns_at_the_end_of_a_spreadsheet_do_not_count(folder: Path):
    text = "# label: liver,,,,\nname,image:ct,fold,,\na,a/ct.nii.gz,,,\n"
    (folder / "saved.csv").write_text(text)
    assert [case.fold for case in read_cohort(folder / "saved.csv").cases] == [None]
    (folder / "saved.csv").write_text(text.replace("gz,,,", "gz,,,note"))
    with pytest.raises(CohortError, match="A row has 5 cells instead of 3"):
        read_cohort(folder / "saved.csv")


def test_names_that_end_in_a_separator_survive_csv(folder: Path):
    table = LabelTable.from_names(["liver;", "spleen,"])
    write_cohort(replace(cohort_in(folder), labels=table), folder / "c.csv")
    assert read_cohort(folder / "c.csv").labels.names == table.names


def test_paths_that_were_written_on_windows(folder: Path):
    data = document(folder)
    data["cases"][0]["images"]["ct"] = "a\\ct.nii.gz"
    (folder / "windows.json").write_text(json.dumps(data))
    assert read_cohort(folder / "windows.json").cases[0].images["ct"] == folder / "a" / "ct.nii.gz"
    (folder / "a\\ct.nii.gz").touch()
    assert read_cohort(folder / "windows.json").cases[0].images["ct"] == folder / "a\\ct.nii.gz"
    data["cases"][0]["images"]["ct"] = "a\\pet.nii.gz"
    (folder / "windows.json").write_text(json.dumps(data))
    with pytest.raises(CohortError, match=r"a\\pet\.nii\.gz' \(ct\) of the case 'a' does not exist"):
        read_cohort(folder / "windows.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("labels"), "The file lacks labels"),
        (lambda d: d.update(extra=1), "The file has unknown keys: extra"),
        (lambda d: d.update(format="other"), "format should be 'crossmodalseg-cohort-1', got 'other'"),
        (lambda d: d.update(modalities=[]), "modalities should be names such as"),
        (lambda d: d.update(modalities="ct"), "A list was expected as 'modalities', got str"),
        (lambda d: d.update(modalities=["ct", "ct"]), "Each modality should appear once; these appear twice: ct"),
        (lambda d: d.update(modalities=["ct", "mask"]), "'mask' is not a modality but what belongs to an image"),
        (lambda d: d.update(labels=[{"value": 2, "name": "x"}]), "label values should be 1 to 1"),
        (
            lambda d: d.update(labels=[{"value": 1, "name": "Background"}, {"value": 2, "name": "liver"}]),
            "'background' is always 0: leave it out of Background, liver",
        ),
        (lambda d: d.pop("scribble_convention"), "case 'a' has scribbles, but no scribble convention is declared"),
        (lambda d: d.update(scribble_convention={"unlabelled": 0}), "lacks background"),
        (lambda d: d.update(scribble_convention={"unlabelled": "0", "background": 1}), "from 0 to 65535, got '0'"),
        (lambda d: d.update(cases=[]), "at least one case"),
        (lambda d: d.update(cases={}), "A list was expected as 'cases', got dict"),
        (lambda d: d["cases"].append(d["cases"][0]), "Each case should appear once; these appear twice: a"),
        (lambda d: d["cases"][0].update(name="../x"), "usable as a file name, got '../x'"),
        (lambda d: d["cases"][0].update(name=5), "Text was expected as the name of a case, got 5"),
        (lambda d: d["cases"][0].update(colour=5), "A case has unknown keys: colour"),
        (lambda d: d["cases"][0].update(fold="1"), "fold of the case 'a' should be 0 or above, got '1'"),
        (lambda d: d["cases"][0].update(fold=True), "fold of the case 'a'"),
        (lambda d: d["cases"][0].update(images={}), "case 'a' has no image"),
        (lambda d: d["cases"][0]["images"].pop("mr"), "case 'a' should have the images ct, mr, got ct"),
        (lambda d: d["cases"][0]["images"].update(pet="x"), "should have the images ct, mr, got ct, mr, pet"),
        (lambda d: d["cases"][0]["images"].update(mr=None), "case 'a' should name its files by paths, got None"),
        (lambda d: d["cases"][0]["images"].update(mr=""), "should name its files by paths"),
        (lambda d: d["cases"][1]["images"].update(mr="b/no.nii"), r"'.*no\.nii' \(mr\) of the case 'b' does not exist"),
        (lambda d: d["cases"][1]["images"].update(mr="b/\0"), r"\(mr\) of the case 'b' does not exist"),
        (lambda d: d["cases"][1].update(mask="x" * 5000), r"\(mask\) of the case 'b' does not exist"),
        (lambda d: d["cases"][1].update(scribbles="b/no.nii"), r"\(scribbles\) of the case 'b' does not exist"),
    ],
)
def test_malformed_json(folder: Path, change: object, message: str):
    data = document(folder)
    change(data)
    (folder / "bad.json").write_text(json.dumps(data))
    with pytest.raises(CohortError, match=message) as caught:
        read_cohort(folder / "bad.json")
    assert str(caught.value).startswith(f"The cohort file '{folder / 'bad.json'}' is not usable: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The columns should be name, image:MODALITY"),
        ("# colour: red\nname,image:ct\n", "'# label: NAME' or '# scribbles: .*' was expected, got 'colour: red'"),
        ("# label: background\n# label: x\nname,image:ct\na,a/ct.nii.gz\n", "leave it out of background, x"),
        ("# label: x\nname,ct\na,b\n", "columns should be name, image:MODALITY .* got name, ct"),
        ("# label: x\nname\na\n", "case 'a' has no image"),
        ("name,image:ct\na,a/ct.nii.gz\n", "at least one class"),
        ("# label: x\nname,image:ct\n", "at least one case"),
        ("# label: x\nname,image:ct\na\n", "A row has 1 cells instead of 2: a"),
        ("# label: x\nname,name,image:ct\na,a,a\n", "Each column should appear once"),
        (
            "# label: x\nname,image:ct,fold\na,a/ct.nii.gz,-1\n",
            "fold of the case 'a' should be a whole number, got '-1'",
        ),
        (
            "# label: x\nname,image:ct,scribbles\na,a/ct.nii.gz,a/scribbles.nii.gz\n",
            "no scribble convention is declared",
        ),
        ("# scribbles: unlabelled=x\n# label: x\nname,image:ct\n", "should say 'unlabelled=N background=N', got"),
        ('# label: x\nname,image:ct\n"a,b\n', "not valid CSV"),
        ("# label: x\nname,image:ct,image:mr\na,a/ct.nii.gz,\n", "should have the images ct, mr, got ct"),
    ],
)
def test_malformed_csv(folder: Path, text: str, message: str):
    (folder / "bad.csv").write_text(text)
    with pytest.raises(CohortError, match=message):
        read_cohort(folder / "bad.csv")


def test_missing_and_foreign_cohort_files(folder: Path):
    for name in ("none.json", "none.csv"):
        with pytest.raises(CohortError, match="does not exist"):
            read_cohort(folder / name)
    with pytest.raises(CohortError, match=r"\.json or \.csv file, got"):
        read_cohort(folder / "cohort.yaml")
    with pytest.raises(CohortError, match=r"\.json or \.csv file, got"):
        write_cohort(cohort_in(folder), folder / "cohort.yaml")
    (folder / "latin.csv").write_bytes(b"# label: \xe9\n")
    with pytest.raises(CohortError, match="cannot be read as UTF-8"):
        read_cohort(folder / "latin.csv")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["ct", "mr", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)
almost = st.fixed_dictionaries(
    {
        "modalities": junk | st.just(["ct"]),
        "labels": junk | st.just([{"value": 1, "name": "liver"}]),
        "cases": junk
        | st.lists(
            st.fixed_dictionaries(
                {"name": junk | st.just("a"), "images": junk | st.dictionaries(st.just("ct"), junk | st.just("x.nii"))},
                optional={"scribbles": junk, "mask": junk, "fold": junk},
            ),
            max_size=2,
        ),
    },
    optional={"scribble_convention": junk | st.just({"unlabelled": 0, "background": 1}), "format": junk},
)


@settings(max_examples=80)
@given(data=junk | almost)
def test_any_json_is_a_cohort_or_our_error(tmp_path: Path, data: object):
    (tmp_path / "x.nii").write_text("")
    (tmp_path / "any.json").write_text(json.dumps(data))
    _read_or_refuse(tmp_path / "any.json")


lines = st.sampled_from(
    [
        "# label: liver",
        "# label:",
        "# scribbles: unlabelled=0 background=1",
        "# scribbles: unlabelled=٣",
        "name,image:ct",
        "name,image:ct,scribbles,mask,fold",
        "a,x.nii",
        "a,x.nii,,,",
        "b,x.nii,x.nii,x.nii,0",
        '"',
        "#",
        ",,,,",
    ]
)


@settings(max_examples=80)
@given(parts=st.lists(lines | st.text(max_size=12), max_size=8), ending=st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_csv_is_a_cohort_or_our_error(tmp_path: Path, parts: list[str], ending: str):
    (tmp_path / "x.nii").write_text("")
    (tmp_path / "any.csv").write_bytes(ending.join(parts).encode("utf-8", "surrogatepass"))
    _read_or_refuse(tmp_path / "any.csv")


@given(data=st.binary(max_size=200), suffix=st.sampled_from([".json", ".csv"]))
def test_any_bytes_are_a_cohort_or_our_error(tmp_path: Path, data: bytes, suffix: str):
    (tmp_path / f"any{suffix}").write_bytes(data)
    _read_or_refuse(tmp_path / f"any{suffix}")


def _read_or_refuse(path: Path) -> None:
    try:
        cohort = read_cohort(path)
    except CrossModalSegError:
        return
    assert cohort.cases


# --- names of results ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["Case1", "case1"], ["\u00e9", "E\u0301"], ["Straße", "STRASSE"]])
def test_names_that_only_some_systems_tell_apart_give_no_results(names: list[str]):
    with pytest.raises(CohortError, match=f"'{names[0]}' and '{names[1]}' would have the same name"):
        check_result_names(["x", *names])


@pytest.mark.parametrize("name", ["CON", "prn", "Aux.left", "nul .1", "COM1", "lpt²", "a."])
def test_names_that_windows_refuses_give_no_results(name: str):
    with pytest.raises(CohortError, match=f"under the name '{re.escape(name)}' on Windows"):
        check_result_names(["x", name])


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        ("CON", "_CON"),
        ("nul.1", "_nul.1"),
        ("Aux .left", "_Aux .left"),
        ("com¹", "_com¹"),
        ("conout$", "_conout$"),
        (" a. . ", "a"),
        ("a/b:c\t", "a_b_c"),
        ("3: T2", "3_ T2"),
        ("con1", "con1"),
        ("x.con", "x.con"),
        ("...", "case"),
        ("lpt\n1", "lpt_1"),
    ],
)
def test_any_text_gives_a_name_that_all_systems_take(name: str, usable: str):
    assert as_file_name(name, "case") == usable
    check_result_names([usable])
    Case(usable, {"ct": Path("ct.nrrd")})


def test_a_default_is_made_usable_as_well():
    assert as_file_name("", "nul") == "_nul"


def test_other_names_give_results():
    check_result_names(["con1", "CON-2", "a.b", "a", "A2", "Fälle 1", "com", "x.con"])


# --- nnU-Net -----------------------------------------------------------------------------------------------------


def nnunet(root: Path, labels: dict, channels: object = None, ending: str = ".nii.gz") -> Path:
    volume = Volume(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), AFFINE)
    for name in ("liver_001", "liver_002"):
        for channel in range(2):
            write_volume(volume, root / "imagesTr" / f"{name}_{channel:04d}{ending}")
        scribbles = scribble_array()
        scribbles[scribbles == 255] = 3
        write_volume(Volume(scribbles, AFFINE), root / "labelsTr" / f"{name}{ending}")
    dataset = {"labels": labels, "file_ending": ending, "channel_names": channels or {"0": "CT", "1": "MR"}}
    (root / "dataset.json").write_text(json.dumps(dataset))
    return root


def test_nnunet_with_an_ignore_label_has_scribbles(tmp_path: Path):
    root = nnunet(tmp_path / "Dataset001 ä", {"background": 0, "spleen": 2, "liver": 1, "ignore": 3})
    cohort = cohort_from_nnunet(root)
    assert cohort.modalities == ("ct", "mr")
    assert cohort.labels.names == ("liver", "spleen")
    assert cohort.convention == ScribbleConvention.nnunet(3)
    assert [case.name for case in cohort.cases] == ["liver_001", "liver_002"]
    loaded = load_case(cohort.cases[0], cohort)
    assert np.array_equal(loaded.scribbles.array, scribble_array())
    assert loaded.mask is None


def test_nnunet_without_one_has_masks(tmp_path: Path):
    root = nnunet(tmp_path, {"background": 0, "liver": 1, "spleen": 2, "kidney": 3}, ending=".nrrd")
    cohort = cohort_from_nnunet(root)
    assert cohort.cases[0].scribbles is None
    assert load_case(cohort.cases[0], cohort).mask.array.max() == 3


def test_nnunet_of_version_1(tmp_path: Path):
    root = nnunet(tmp_path, {})
    dataset = {"labels": {"0": "background", "1": "liver", "2": "spleen", "3": "x"}, "modality": {"0": "CT", "1": "MR"}}
    (root / "dataset.json").write_text(json.dumps(dataset))
    assert cohort_from_nnunet(root).labels.names == ("liver", "spleen", "x")


def test_nnunet_with_what_macos_leaves_beside_files(tmp_path: Path):
    root = nnunet(tmp_path, {"Background": 0, "liver": 1, "spleen": 2, "kidney": 3})
    (root / "labelsTr" / "._liver_001.nii.gz").write_bytes(b"attributes")
    cohort = cohort_from_nnunet(root)
    assert [case.name for case in cohort.cases] == ["liver_001", "liver_002"]
    assert cohort.labels.names == ("liver", "spleen", "kidney")


@pytest.mark.parametrize(
    ("labels", "channels", "message"),
    [
        ({"background": 0, "whole": [1, 2]}, None, "Region-based labels cannot be used"),
        ({"background": 0, "liver": 1, "spleen": 5}, None, "numbered from 1 without gaps"),
        ({"background": 1, "liver": 2}, None, "'background' should have the value 0"),
        ({"background": 0}, None, "at least one class"),
        ({"background": 0, "liver": 1}, {"1": "CT"}, "channels should be numbered from 0"),
        (
            {"background": 0, "liver": 1},
            {"0": "CT", "1": "MR", "2": "PET"},
            r"\(pet\) of the case 'liver_001' does not",
        ),
    ],
)
def test_unusable_nnunet_folders(tmp_path: Path, labels: dict, channels: object, message: str):
    with pytest.raises(CohortError, match=message):
        cohort_from_nnunet(nnunet(tmp_path, labels, channels))


def test_what_is_no_nnunet_folder(tmp_path: Path):
    with pytest.raises(CohortError, match=r"dataset\.json' does not exist"):
        cohort_from_nnunet(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "a": 1}, "channel_names": {"0": "CT"}}')
    with pytest.raises(CohortError, match=r"no file \*\.nii\.gz in labelsTr"):
        cohort_from_nnunet(tmp_path)


@given(data=junk)
def test_any_dataset_json_is_our_error(tmp_path: Path, data: object):
    (tmp_path / "dataset.json").write_text(json.dumps(data))
    with pytest.raises(CrossModalSegError):
        cohort_from_nnunet(tmp_path)


# --- loading -----------------------------------------------------------------------------------------------------


def test_loading(folder: Path):
    cohort = cohort_in(folder)
    loaded = load_case(cohort.cases[0], cohort)
    assert list(loaded.images) == ["ct", "mr"]
    assert loaded.grid is loaded.images["ct"]
    assert loaded.scribbles.array.dtype == loaded.mask.array.dtype == np.uint8
    assert np.array_equal(loaded.scribbles.array, scribble_array())
    assert loaded.mask.array.max() == 2


def replaced(folder: Path, file: str, volume: Volume) -> Cohort:
    write_volume(volume, folder / "a" / file)
    return cohort_in(folder)


def test_different_grids_are_an_error_or_resampled(folder: Path):
    fine = Volume(np.arange(240, dtype=np.float32).reshape(8, 6, 5), AFFINE @ np.diag([1, 1, 0.5, 1]))
    cohort = replaced(folder, "mr.nii.gz", fine)
    with pytest.raises(GeometryError, match=r"In the case 'a': 'ct' and 'mr' should share one grid.*--resample"):
        load_case(cohort.cases[0], cohort)
    assert load_case(cohort.cases[0], cohort, resample=True).images["mr"].shape == SHAPE


@pytest.mark.parametrize("file", ["mr.nii.gz", "scribbles.nii.gz", "mask.nii.gz"])
def test_what_lies_elsewhere_is_not_resampled_to_nothing(folder: Path, file: str):
    array = np.arange(120).reshape(SHAPE).astype(np.float32) if file == "mr.nii.gz" else scribble_array() % 255
    moved = AFFINE.copy()
    moved[:3, 3] += 500.0
    cohort = replaced(folder, file, Volume(array, moved))
    with pytest.raises(GeometryError, match=f"'{file[: -len('.nii.gz')]}' lies outside of 'ct' in patient space"):
        load_case(cohort.cases[0], cohort, resample=True)


def test_a_constant_image_shows_nothing(folder: Path):
    cohort = replaced(folder, "mr.nii.gz", Volume(np.full(SHAPE, 7, np.int16), AFFINE))
    with pytest.raises(InputError, match="In the case 'a': The image 'mr' is constant: all of its voxels are 7"):
        load_case(cohort.cases[0], cohort)


@pytest.mark.parametrize("file", ["scribbles.nii.gz", "mask.nii.gz"])
def test_scribbles_and_mask_on_another_grid(folder: Path, file: str):
    labels = np.full((8, 6, 5), 2, np.uint8)
    cohort = replaced(folder, file, Volume(labels, AFFINE @ np.diag([1, 1, 0.5, 1])))
    name = file.split(".")[0]
    with pytest.raises(GeometryError, match=f"In the case 'a': 'ct' and '{name}' should share one grid"):
        load_case(cohort.cases[0], cohort)
    loaded = load_case(cohort.cases[0], cohort, resample=True)
    assert (getattr(loaded, name).array[:3] == 2).all()
    assert getattr(loaded, name).shape == SHAPE


def test_strokes_and_masks_keep_their_classes_on_another_grid(folder: Path):
    """Slices four times as thin: a stroke on one of them stays, and a mask has no class between two others."""
    thin = AFFINE @ np.diag([1, 1, 0.25, 1])
    strokes = np.full((16, 6, 5), 255, np.uint8)
    strokes[5, 2, 3], strokes[6, 4] = 1, 0
    cohort = replaced(folder, "scribbles.nii.gz", Volume(strokes, thin))
    mask = np.zeros((12, 6, 5), np.uint8)
    mask[:, :3] = 2
    replaced(folder, "mask.nii.gz", Volume(mask, AFFINE @ np.diag([1, 1.3, 0.25, 1])))
    loaded = load_case(cohort.cases[0], cohort, resample=True)
    assert np.argwhere(loaded.scribbles.array == 1).tolist() == [[1, 2, 3]]
    assert np.argwhere(loaded.scribbles.array == 0)[:, :2].tolist() == [[2, 4]] * 5
    assert set(np.unique(loaded.mask.array)) == {0, 2}
    assert not loaded.mask.array[3].any()  # beyond the mask


def test_unknown_values(folder: Path):
    bad = scribble_array()
    bad[0, 0, 0] = 7
    cohort = replaced(folder, "scribbles.nii.gz", Volume(bad, AFFINE))
    with pytest.raises(
        LabelError, match="In the case 'a': The scribbles hold the value 7, unknown to the declared conv"
    ):
        load_case(cohort.cases[0], cohort)
    cohort = replaced(folder, "scribbles.nii.gz", Volume(scribble_array(), AFFINE))
    cohort = replaced(folder, "mask.nii.gz", Volume(np.full(SHAPE, 9, np.uint8), AFFINE))
    with pytest.raises(LabelError, match="In the case 'a': The mask holds the value 9"):
        load_case(cohort.cases[0], cohort)


def test_damaged_images_name_the_case(folder: Path):
    cohort = cohort_in(folder)
    path = cohort.cases[1].images["mr"]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=re.escape(f"In the case 'b': '{path}' is truncated")):
        load_case(cohort.cases[1], cohort)


def test_slicer_segments_need_no_convention_and_no_resampling(folder: Path):
    """Scribbles as Slicer saves them: a cropped box, segments in any order, one called Background."""
    painted = np.where(scribble_array() == 255, 0, np.array([3, 2, 1])[np.minimum(scribble_array(), 2)])
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [0, 1, 1, 1])[:3]
    table = LabelTable.from_names(["Spleen", "liver", "Background"])
    write_segmentation(Volume(painted[1:, 1:], affine), table, folder / "a" / "s.seg.nrrd")
    mask_table = LabelTable.from_names(["spleen", "liver"])
    mask = np.array([0, 2, 1])[scribble_array() % 255]
    write_segmentation(Volume(mask, AFFINE), mask_table, folder / "a" / "m.seg.nrrd")
    data = document(folder)
    del data["scribble_convention"]
    data["cases"] = data["cases"][:1]
    data["cases"][0].update(scribbles="a/s.seg.nrrd", mask="a/m.seg.nrrd")
    (folder / "c.json").write_text(json.dumps(data))
    cohort = read_cohort(folder / "c.json")
    loaded = load_case(cohort.cases[0], cohort)
    assert np.array_equal(loaded.scribbles.array, scribble_array())
    assert np.array_equal(loaded.mask.array, scribble_array() % 255)


def test_slicer_segments_of_unknown_names(folder: Path):
    table = LabelTable.from_names(["liver", "Segment_1"])
    write_segmentation(Volume(scribble_array() % 255, AFFINE), table, folder / "a" / "s.seg.nrrd")
    data = document(folder)
    data["cases"][0]["scribbles"] = "a/s.seg.nrrd"
    (folder / "c.json").write_text(json.dumps(data))
    cohort = read_cohort(folder / "c.json")
    with pytest.raises(LabelError, match="unknown names: Segment_1; rename them to liver, spleen, background"):
        load_case(cohort.cases[0], cohort)
