"""Which model that ships answers for which organs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from CrossModalSegLib.inference import model_folder
from CrossModalSegLib.inference.model_folder import load_model, shipped_models_folder
from CrossModalSegLib.inference.referring import (
    BROAD_MODEL,
    DEFAULT_MODEL,
    choice_told,
    default_model,
    open_default,
    shipped,
)
from CrossModalSegLib.labels import LabelTable


@pytest.mark.parametrize(
    ("organs", "model"),
    [
        (["Liver", "kidney_right"], "abdomen-mr"),
        (["spleen"], "abdomen-mr"),
        (["liver", "pancreas"], "abdomen-organs"),
        (["left ventricle"], "abdomen-organs"),
        (["label 1", "Structure 2"], "abdomen-mr"),  # not told what they are
        (["label 1", "pancreas"], "abdomen-organs"),
    ],
)
def test_the_model_is_the_one_that_was_trained_on_all_of_the_organs(organs, model):
    assert default_model(LabelTable.from_names(organs)) == model


@dataclass
class Opened:
    """A model that is its own session, and sees given shares of the strokes."""

    name: str
    shares: tuple[float, ...]

    @property
    def session(self):
        return self

    def seen(self, _image, _scribbles, table, _cancel=None):
        return dict(zip(table.names, self.shares, strict=True))


@pytest.mark.parametrize(
    ("organs", "shares", "is_better", "told"),
    [
        (["label 1", "2"], (0.0, 0.5), True, "abdomen-organs answers, as abdomen-mr does not see some of what was"),
        (["label 1", "2", "3"], (0.9, 0.05, 0.9), True, "abdomen-organs answers, as abdomen-mr does not see some of"),
        (["label 1", "2"], (0.15, 0.9), False, "abdomen-mr answers, and names of the organs might choose a better"),
        (["liver", "Segment_2"], (0.9, 0.1), True, "abdomen-organs answers, as abdomen-mr does not see some of what"),
        (["liver", "spleen"], (0.0, 0.0), False, "abdomen-mr answers, chosen by the names of the organs."),
    ],
)
def test_strokes_on_organs_without_names_tell_whether_they_are_known(organs, shares, is_better, told, monkeypatch):
    table = LabelTable.from_names(organs)
    asked = []

    def open_model(name: str) -> Opened:
        asked.append(name)
        return Opened(name, shares)

    opened = open_default(open_model, None, None, table)
    assert asked == [DEFAULT_MODEL, BROAD_MODEL][: 1 + is_better] and opened.name == asked[-1]
    assert choice_told(opened.name, table).startswith(f"No model was named: {told}")
    monkeypatch.setattr(shipped, "list_models", lambda: {DEFAULT_MODEL: shipped_models_folder() / DEFAULT_MODEL})
    assert open_default(open_model, None, None, table).name == DEFAULT_MODEL


def test_names_that_tell_open_one_model_and_no_image():
    table = LabelTable.from_names(["liver", "pancreas"])
    assert open_default(lambda name: Opened(name, ()), None, None, table).name == BROAD_MODEL
    told = choice_told(BROAD_MODEL, table)
    assert told.endswith("chosen by the names of the organs (for liver alone abdomen-mr would, mostly better).")
    assert choice_told(BROAD_MODEL, LabelTable.from_names(["pancreas"])).endswith("by the names of the organs.")


@pytest.mark.parametrize("there", [[], [DEFAULT_MODEL], [BROAD_MODEL]])
def test_where_one_is_missing_there_is_no_choice(there, tmp_path, monkeypatch):
    for name in there:
        shutil.copytree(shipped_models_folder() / name, tmp_path / name)
    monkeypatch.setattr(model_folder, "shipped_models_folder", lambda: tmp_path)
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "none"))
    assert default_model(LabelTable.from_names(["pancreas"])) == DEFAULT_MODEL


@pytest.mark.parametrize(("name", "organs", "dice"), [("abdomen-mr", 4, 0.763), ("abdomen-organs", 13, 0.765)])
def test_what_ships_says_what_it_was_made_from(name, organs, dice):
    folder: Path = shipped_models_folder() / name
    assert sum(each.stat().st_size for each in folder.iterdir()) <= 40e6
    card = load_model(folder).card
    assert card.name == name and len(card.labels) == organs
    assert card.labels.names[:4] == ("liver", "right kidney", "left kidney", "spleen")
    assert card.provenance["cases"]["training"] == ["sabs03", "sabs16", "sabs19", "sabs24"]
    assert "CC BY 4.0" in card.licence
    assert card.metrics["DSC"]["T2 to T1 (CHAOS)"] == pytest.approx(dice)
