from __future__ import annotations

import pytest
from referring_support import TABLE, noise, strokes, tiny_model

from CrossModalSegLib.inference.referring import ReferSession
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
        (["Leber"], ("Leber",)),
        (["3rd ventricle", "segment 4 of the liver"], ("3rd ventricle", "segment 4 of the liver")),
    ],
)
def test_organs_are_known_by_their_words(asked, unseen):
    known = LabelTable.from_names(["liver", "left kidney"])
    assert unseen_organs(LabelTable.from_names(asked), known) == unseen


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
