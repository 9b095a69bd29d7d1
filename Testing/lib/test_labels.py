from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from CrossModalSegLib.errors import CrossModalSegError, LabelError
from CrossModalSegLib.labels import (
    Label,
    LabelTable,
    ScribbleConvention,
    check_mask,
    check_scribbles,
    is_terminology_entry,
)
from CrossModalSegLib.terminology import BACKGROUND, GENERIC_TISSUE, find_structure

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TWO = LabelTable.from_names(["liver", "spleen"])

# --- label and table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "liver", (1, 2, 3)), "from 1 to 254, got 0"),
        ((255, "liver", (1, 2, 3)), "from 1 to 254, got 255"),
        ((True, "liver", (1, 2, 3)), "got True"),
        ((1, "  ", (1, 2, 3)), "one line of text"),
        ((1, "two\nlines", (1, 2, 3)), "one line of text"),
        ((1, 7, (1, 2, 3)), "one line of text, got 7"),
        ((1, "liver", (1, 2)), "three whole numbers from 0 to 255"),
        ((1, "liver", (1, 2, 256)), "three whole numbers"),
        ((1, "liver", (0.5, 0.5, 0.5)), "three whole numbers"),
        ((1, "liver", (1, 2, 3), "SCT^1^Liver"), "seven parts joined by '~'"),
        ((1, "liver", (1, 2, 3), 5), "seven parts"),
    ],
)
def test_bad_labels(arguments: tuple, message: str):
    with pytest.raises(LabelError, match=message):
        Label(*arguments)


def test_bad_tables():
    liver, spleen = TWO.labels
    with pytest.raises(LabelError, match="at least one class"):
        LabelTable(())
    with pytest.raises(LabelError, match=r"1 to 2 in this order, got \[2, 1\]"):
        LabelTable((spleen, liver))
    with pytest.raises(LabelError, match=r"got \[2\]"):
        LabelTable((spleen,))
    with pytest.raises(LabelError, match="appear twice: liver"):
        LabelTable.from_names(["liver", "Liver"])
    with pytest.raises(LabelError, match="list of names was expected, got 'liver'"):
        LabelTable.from_names("liver")


def test_table_of_names():
    assert len(TWO) == 2
    assert TWO.num_classes == 3
    assert TWO.names == ("liver", "spleen")
    assert [label.value for label in TWO.labels] == [1, 2]
    assert TWO.label_by_name("Spleen").value == 2
    with pytest.raises(LabelError, match="no class 'heart'; the classes are liver, spleen"):
        TWO.label_by_name("heart")


@given(st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1), min_size=1, max_size=254))
def test_tables_survive_json_and_have_distinct_colours(names: list[str]):
    distinct = list({name.strip().casefold(): name for name in names}.values())
    table = LabelTable.from_names(distinct)
    assert LabelTable.from_json(json.loads(json.dumps(table.to_json()))) == table
    assert len({label.color for label in table.labels}) == len(table)


def test_254_classes_have_254_colours():
    table = LabelTable.from_names([f"part {n}" for n in range(254)])
    assert len({label.color for label in table.labels}) == 254
    with pytest.raises(LabelError, match="got 255"):
        LabelTable.from_names([f"part {n}" for n in range(255)])


def test_json_may_leave_colour_and_terminology_away():
    assert LabelTable.from_json([{"value": 1, "name": "liver"}, {"value": 2, "name": "spleen"}]) == TWO


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"liver": 1}, "list of objects"),
        ([1], "list of objects"),
        ([{"value": 1}], "needs a 'name'"),
        ([{"name": "liver"}], "has no 'value'"),
        ([{"value": "1", "name": "liver"}], "whole number from 1 to 254, got '1'"),
        ([{"value": 1, "name": "liver", "colour": [1, 2, 3]}], "unknown keys: colour"),
        ([{"value": 1, "name": "liver", "color": "red"}], "color of 'liver' should be three"),
    ],
)
def test_malformed_tables(data: object, message: str):
    with pytest.raises(LabelError, match=message):
        LabelTable.from_json(data)


@given(
    json_values
    | st.lists(
        st.fixed_dictionaries(
            {}, optional={"value": json_values, "name": json_values, "color": json_values, "terminology": json_values}
        )
    )
)
def test_any_json_gives_a_table_or_our_error(data: object):
    try:
        table = LabelTable.from_json(data)
    except CrossModalSegError:
        return
    assert len(table) >= 1


# --- terminology -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "modifier"),
    [
        ("liver", "SCT^10200004^Liver", "^^"),
        ("spleen", "SCT^78961009^Spleen", "^^"),
        ("Left kidney", "SCT^64033007^Kidney", "SCT^7771000^Left"),
        ("kidney_right", "SCT^64033007^Kidney", "SCT^24028007^Right"),
        ("stomach", "SCT^69695003^Stomach", "^^"),
        ("gallbladder", "SCT^28231008^Gallbladder", "^^"),
        ("pancreas", "SCT^15776009^Pancreas", "^^"),
        ("oesophagus", "SCT^32849002^Esophagus", "^^"),
        ("Esophagus", "SCT^32849002^Esophagus", "^^"),
        ("aorta", "SCT^15825003^Aorta", "^^"),
        ("inferior vena cava", "SCT^64131007^Inferior vena cava", "^^"),
        ("IVC", "SCT^64131007^Inferior vena cava", "^^"),
        ("portal vein and splenic vein", "SCT^32764006^Portal vein", "^^"),
        ("portal and splenic veins", "SCT^32764006^Portal vein", "^^"),
        ("left adrenal gland", "SCT^23451007^Adrenal gland", "SCT^7771000^Left"),
        ("adrenal_gland_right", "SCT^23451007^Adrenal gland", "SCT^24028007^Right"),
        ("tumour", "SCT^108369006^Neoplasm", "^^"),
        ("tumor", "SCT^108369006^Neoplasm", "^^"),
        ("GTV", "SCT^86049000^Neoplasm, Primary", "^^"),
        ("lesion", "SCT^52988006^Lesion", "^^"),
        ("neoplasm", "SCT^108369006^Neoplasm", "^^"),
        ("left ventricle", "SCT^87878005^Left Ventricle", "^^"),
        ("RV", "SCT^53085002^Right Ventricle", "^^"),
        ("myocardium", "SCT^74281007^Myocardium", "^^"),
        ("brain", "SCT^12738006^Brain", "^^"),
        ("spinal cord", "SCT^2748008^Spinal cord", "^^"),
        ("background", "DCM^125040^Background", "^^"),
    ],
)
def test_known_structures(name: str, code: str, modifier: str):
    entry = LabelTable.from_names([name]).labels[0].terminology
    assert is_terminology_entry(entry)
    context, category, kind, kind_modifier, region_context, region, region_modifier = entry.split("~")
    assert context.startswith("Segmentation category and type - ")
    assert category.count("^") == 2
    assert (kind, kind_modifier) == (code, modifier)
    assert (region_context, region, region_modifier) == ("Anatomic codes - DICOM master list", "^^", "^^")


def test_unknown_structures_are_tissue():
    assert find_structure("left flange") is None
    assert find_structure("") is None
    assert LabelTable.from_names(["left flange"]).labels[0].terminology == GENERIC_TISSUE


@pytest.mark.parametrize(
    "text", [None, 5, "", "~~~~~~", "a~b~c", BACKGROUND + "|", BACKGROUND + "\n", BACKGROUND + "~"]
)
def test_what_is_no_terminology_entry(text: object):
    assert not is_terminology_entry(text)


# --- conventions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("convention", "values", "internal"),
    [
        (ScribbleConvention.INTERNAL, [255, 0, 1, 2, 3], [255, 0, 1, 2, 3]),
        (ScribbleConvention.ACDC, [4, 0, 1, 2, 3], [255, 0, 1, 2, 3]),
        (ScribbleConvention.MSCMR, [4, 0, 1, 2, 3], [255, 0, 1, 2, 3]),
        (ScribbleConvention.nnunet(9), [9, 0, 1, 2, 3], [255, 0, 1, 2, 3]),
        (ScribbleConvention(0, 4), [0, 4, 1, 2, 3], [255, 0, 1, 2, 3]),
        (ScribbleConvention(0, None), [0, 1, 2, 3], [255, 1, 2, 3]),
        (ScribbleConvention(0, 1000), [0, 1000, 1, 2, 3], [255, 0, 1, 2, 3]),
    ],
)
def test_conventions_by_hand(convention: ScribbleConvention, values: list, internal: list):
    for dtype in (np.int16, np.uint16, np.float32):
        result = convention.to_internal(np.array(values, dtype), num_classes=4)
        assert result.dtype == np.uint8
        assert result.tolist() == internal


@given(
    hnp.arrays(st.sampled_from([np.int16, np.uint8, np.float32, np.int64]), (2, 3)),
    st.builds(ScribbleConvention, st.integers(0, 10), st.integers(11, 20) | st.none()),
    st.integers(-1, 300),
)
def test_any_array_is_converted_or_refused(array: np.ndarray, convention: ScribbleConvention, num_classes: int):
    try:
        result = convention.to_internal(array, num_classes)
    except LabelError:
        return
    assert set(np.unique(result)) <= {*range(num_classes), 255}


def test_unknown_scribble_values_are_named():
    with pytest.raises(LabelError, match="hold the values 7, 9, .*1 to 3 are classes, 255 is unlabelled, 0 background"):
        ScribbleConvention.INTERNAL.to_internal(np.array([0, 1, 7, 9, 255]), 4)
    with pytest.raises(LabelError, match="the value -1"):
        ScribbleConvention.INTERNAL.to_internal(np.array([0, 1, -1]), 4)
    with pytest.raises(LabelError, match="values 0, 2, 3, 4, 5, 6, 7, 8 and others"):
        ScribbleConvention(600, 601).to_internal(np.array([0, *range(2, 600)]), 2)


def test_fractions_are_no_scribbles():
    with pytest.raises(LabelError, match="scribbles should hold whole numbers, got fractions"):
        ScribbleConvention.INTERNAL.to_internal(np.array([0.5]), 2)
    with pytest.raises(LabelError, match="NaN"):
        ScribbleConvention.INTERNAL.to_internal(np.array([np.nan]), 2)


def test_clashing_conventions():
    with pytest.raises(LabelError, match="cannot share the value 4"):
        ScribbleConvention(4, 4)
    with pytest.raises(LabelError, match="from 0 to 65535, got -1"):
        ScribbleConvention(-1, 0)
    with pytest.raises(LabelError, match="value 4 cannot mean 'unlabelled': with 5 classes it is the value of a class"):
        ScribbleConvention.ACDC.to_internal(np.zeros(3), 6)


# --- checks ------------------------------------------------------------------------------------------------------


def test_good_scribbles_pass():
    check_scribbles(np.array([0, 1, 2, 255], np.uint8), TWO)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([255, 255], "scribbles are empty; draw a stroke in each class"),
        ([1, 2, 255], "no background scribble; draw a stroke where none"),
        ([0, 1, 255], "no scribble of spleen; draw"),
        ([0, 255], "no scribble of liver, spleen"),
        ([0, 1, 2, 3], "hold the value 3; the classes are 1 to 2"),
        ([0, 1, 2, 255, 700], "hold the value 700"),
    ],
)
def test_useless_scribbles(values: list, message: str):
    with pytest.raises(LabelError, match=message):
        check_scribbles(np.array(values), TWO)


def test_the_background_may_do_without_scribbles_where_it_is_not_learnt():
    check_scribbles(np.array([1, 2, 255], np.uint8), TWO, needs_background=False)
    with pytest.raises(LabelError, match=r"scribbles are empty; draw a stroke in each class\.$"):
        check_scribbles(np.array([255], np.uint8), TWO, needs_background=False)
    with pytest.raises(LabelError, match="no scribble of liver"):
        check_scribbles(np.array([2, 255], np.uint8), TWO, needs_background=False)


def test_masks():
    mask = check_mask(np.array([0.0, 1.0, 2.0]), TWO)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [0, 1, 2]
    with pytest.raises(
        LabelError, match="mask holds the values 3, 9; it should hold 0 for background and 1 liver, 2 spleen"
    ):
        check_mask(np.array([0, 3, 9]), TWO)
    with pytest.raises(LabelError, match="value -1"):
        check_mask(np.array([0, -1]), TWO)
    with pytest.raises(LabelError, match="mask should hold whole numbers"):
        check_mask(np.array([0.0, 1.5]), TWO)
