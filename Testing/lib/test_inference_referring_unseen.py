from __future__ import annotations

import pytest
from referring_support import TABLE, noise, strokes, tiny_model

from CrossModalSegLib.inference.model_folder import read_card, shipped_models_folder
from CrossModalSegLib.inference.referring import BROAD_MODEL, DEFAULT_MODEL, ReferSession
from CrossModalSegLib.inference.referring.unseen import unseen_organs
from CrossModalSegLib.labels import LabelTable


@pytest.mark.parametrize(
    ("asked", "unseen"),
    [
        (["liver"], ()),
        (["Kidney_left", "LIVER"], ()),
        (["left-kidney", "left ventricle"], ("left ventricle",)),
        (["kidney"], ("kidney",)),
        (["label 1", "2", "Structure 1", "Segment_4"], ()),
        (["Leber", "Wade"], ("Wade",)),
        (["3rd ventricle", "segment 4 of the liver"], ("3rd ventricle", "segment 4 of the liver")),
    ],
)
def test_organs_are_known_by_their_words(asked, unseen):
    known = LabelTable.from_names(["liver", "left kidney"])
    assert unseen_organs(LabelTable.from_names(asked), known) == unseen


def test_short_forms_and_names_of_public_datasets_are_known():
    known = {name: read_card(shipped_models_folder() / name).labels for name in (DEFAULT_MODEL, BROAD_MODEL)}
    for names in (
        ["kidney right", "kidney_l", "LIVER", "Spleen"],
        ["RightKidney", "left-kidney"],
        ["Right kidney (RK)", "LK (left kidney)"],
        ["Kidney.R", "Lt kidney"],
        ["rkid", "lkid"],
        ["Leber", "Niere rechts", "linke Niere", "Milz"],
        ["foie", "rein droit", "Rein gauche", "rate"],
        ["hígado", "Riñón derecho", "rin\u0303on izquierdo", "bazo"],
        ["fegato", "rene destro", "rene sinistro", "milza"],
        ["Hepar", "ren dexter", "Ren sinister", "lien"],
    ):
        assert unseen_organs(LabelTable.from_names(names), known[DEFAULT_MODEL]) == (), names
    for names in (
        # TotalSegmentator, AMOS, FLARE, and BTCV as written by MONAI
        ["kidney_left", "gallbladder", "esophagus", "inferior_vena_cava", "adrenal_gland_left", "pancreas", "aorta"],
        ["portal_vein_and_splenic_vein", "adrenal_gland_right", "stomach"],
        ["gall bladder", "postcava", "right adrenal gland"],
        ["Inferior Vena Cava (IVC)", "Left Adrenal Gland (LAG)", "RAG"],
        ["portal vein & splenic vein", "gall", "eso", "sto", "IVC"],
        ["suprarenal gland, left", "vena cava inferior", "splenic and portal veins"],
    ):
        assert unseen_organs(LabelTable.from_names(names), known[BROAD_MODEL]) == (), names


def test_a_terminology_tells_what_a_name_does_not():
    known = LabelTable.from_names(["liver", "left kidney"])
    coded = {label.name: label.terminology for label in LabelTable.from_names(["liver", "pancreas"]).labels}
    asked = [{"name": "Máj", "terminology": coded["liver"]}, {"name": "Segment_1", "terminology": coded["pancreas"]}]
    # Slicer's lists of terms differ in the name of the list, not in codes; the name counts where it is known.
    asked[0]["terminology"] = asked[0]["terminology"].replace("3D Slicer General Anatomy list", "DICOM master list")
    asked += [{"name": "kidney L", "terminology": coded["pancreas"]}, {"name": "Lép", "terminology": None}]
    table = LabelTable.from_json([{"value": value, **each} for value, each in enumerate(asked, start=1)])
    assert unseen_organs(table, known) == ("Segment_1", "Lép")


def test_organs_that_a_model_was_not_trained_on_are_told(caplog):
    session = ReferSession(tiny_model())
    session.set_reference(noise())
    assert session.refer(strokes(noise()), TABLE).unseen == ()
    assert not caplog.records
    result = session.refer(strokes(noise()), LabelTable.from_names(["myocardium", "Spleen"]))
    assert result.unseen == ("myocardium",)
    session.refer(strokes(noise()), LabelTable.from_names(["myocardium", "Spleen"]), tune_seconds=0.01)
    record, tuned = (each for each in caplog.records if "not trained on" in each.getMessage())
    assert tuned.getMessage().endswith("may be something else: look at every slice.")
    assert record.getMessage() == (
        "The model tiny was not trained on myocardium, but on liver, spleen. What it marks as organs that it was not "
        "trained on may be something else: tune it on the strokes, and look at every slice."
    )


def test_another_model_that_was_trained_on_them_is_named(caplog):
    session = ReferSession(tiny_model())
    session.set_reference(noise())
    session.refer(strokes(noise()), LabelTable.from_names(["pancreas", "Spleen"]))
    [record] = [each for each in caplog.records if "not trained on" in each.getMessage()]
    assert record.getMessage().endswith("look at every slice. The model abdomen-organs was trained on all of them.")
