"""Segment and Refer in a browser, by mouse, with networks of random weights: the voxels are those of the library."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed (the extra [web])")
pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")
pytest.importorskip("trame_slicer", reason="trame-slicer is not installed (the extra [web])")

sys.path.append(str(Path(__file__).resolve().parents[1] / "gui"))

from tiny_models import write_models
from web_support import Server, Tab

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.inference.model_folder import load_model
from CrossModalSegLib.inference.referring.session import REFERENCE, refer_volumes
from CrossModalSegLib.inference.segment import segment_case
from CrossModalSegLib.io import read_scribble_segments, read_segmentation, read_volume
from CrossModalSegLib.labels import LabelTable

TABLE = LabelTable.from_names(["GTV"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"), TABLE, "ct")


@contextmanager
def opened(browser: object, temporary: Path, images: int, *arguments: object) -> Iterator[Tab]:
    with Server([*arguments, "--labels", "GTV"], temporary) as server:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
        tab = Tab(context, server.url)
        tab.wait_for_images(images)
        yield tab
        context.close()


def test_refer_segments_reference_and_target_and_answers_more_strokes(
    browser: object, phantom: dict[str, Path], models: Path, tmp_path: Path
) -> None:
    arguments = ("--reference", phantom["ct"], "--target", phantom["mr"], "--model", models / "refer")
    with opened(browser, tmp_path, 2, *arguments) as tab:
        assert tab.page.locator(".image select").all_inner_texts()
        tab.choose("GTV")
        tab.drag("Axial1", (0.45, 0.46), (0.55, 0.46))
        for pieces in ("large", "all"):
            tab.page.select_option("#cms-pieces", pieces)
            tab.settled_counts()
            tab.wait(lambda: tab.page.locator("#cms-start").is_enabled())
            tab.page.click("#cms-start")
            tab.wait(lambda: not tab.is_running and tab.page.locator(".table").count(), 60)
            assert tab.error() == ""
            strokes = read_scribble_segments(tab.download("scribbles.seg.nrrd", tmp_path / "drawn.seg.nrrd"), TABLE)
            volumes = {name: read_volume(phantom[name]) for name in ("ct", "mr")}
            drawn = volumes["ct"].with_array(strokes.array)
            options = {"device": "cpu", "pieces": pieces}
            model = load_model(models / "refer")
            expected = refer_volumes(model, volumes["ct"], drawn, {"mr": volumes["mr"]}, TABLE, **options)
            for number, name in enumerate((REFERENCE, "mr")):
                found, _ = read_segmentation(tab.download(f"{number}.nii.gz", tmp_path / f"{number}.nii.gz"))
                np.testing.assert_array_equal(found.array, expected.segmentations[name].array)
            tab.drag("Axial1", (0.45, 0.52), (0.55, 0.52))
        assert tab.problems == []


def test_another_target_is_shown_where_the_reference_is_looked_at(
    browser: object, phantom: dict[str, Path], models: Path, tmp_path: Path
) -> None:
    other = shutil.copy(phantom["mr"], tmp_path / "other.nii.gz")
    arguments = ("--reference", phantom["ct"], "--target", phantom["mr"], other, "--model", models / "refer")
    with opened(browser, tmp_path, 3, *arguments) as tab:
        tab.page.click('[data-layout="side"]')
        tab.wait(lambda: tab.page.locator(".view").count() == 6)
        start = tab.where("Axial1")
        tab.wheel("Axial1", -300)
        here = tab.wait(lambda: tab.where("Axial2") == tab.where("Axial1") != start and tab.where("Axial1"))
        tab.page.locator('button[title="Show this target in the views"]').nth(1).click()
        tab.wait(lambda: tab.page.locator(".image-name").all_inner_texts() == ["ct", "other", "mr"])
        tab.page.wait_for_timeout(500)
        assert (tab.where("Axial1"), tab.where("Axial2")) == (here, here)
        assert tab.error() == "" and tab.problems == []


def test_refer_learns_from_the_strokes_first_where_it_is_asked_to(
    browser: object, phantom: dict[str, Path], models: Path, tmp_path: Path
) -> None:
    arguments = ("--reference", phantom["ct"], "--target", phantom["mr"], "--model", models / "refer")
    with opened(browser, tmp_path, 2, *arguments) as tab:
        tab.choose("GTV")
        tab.drag("Axial1", (0.45, 0.46), (0.55, 0.46))
        tab.choose("Background")  # of a single organ nothing is learned without
        tab.drag("Axial1", (0.3, 0.72), (0.5, 0.85), (0.7, 0.72))
        tab.settled_counts()
        for typed, taken in (("-3", "0"), ("9999", "3600"), ("many", "0"), ("30", "30")):
            tab.page.locator("#cms-tune").evaluate(
                "(field, typed) => { field.value = typed; field.dispatchEvent(new Event('change')) }", typed
            )
            tab.wait(lambda taken=taken: tab.page.input_value("#cms-tune") == taken)
        tab.page.click("#cms-start")
        tab.wait(lambda: tab.page.locator("details.curve polyline").count(), 60)
        assert tab.text(".running .one-line") == "Tune"
        tab.wait(lambda: "left" in tab.text(".running"))
        tab.page.click("#cms-cancel")
        tab.wait(lambda: not tab.is_running, 10)
        tab.page.fill("#cms-tune", "2")
        tab.page.click("#cms-start")
        tab.wait(lambda: not tab.is_running and tab.page.locator(".table").count(), 60)
        assert tab.page.locator("details.curve").count() == 1
        assert tab.error() == "" and tab.problems == []


def test_a_trained_model_segments_without_strokes(
    browser: object, phantom: dict[str, Path], models: Path, tmp_path: Path
) -> None:
    with opened(browser, tmp_path, 1, "--ct", phantom["ct"], "--model", models / "plain") as tab:
        tab.page.click("text=Trained model")
        tab.wait(lambda: tab.page.locator("#cms-start").is_enabled())
        tab.page.click("#cms-start")
        tab.wait(lambda: not tab.is_running and tab.page.locator(".table").count(), 60)
        assert tab.error() == ""
        found, table = read_segmentation(tab.download("0.seg.nrrd", tmp_path / "result.seg.nrrd"))
        case = LoadedCase("case", {"ct": read_volume(phantom["ct"])}, None, None)
        expected = segment_case(load_model(models / "plain"), case, precision="bf16").labels
        np.testing.assert_array_equal(found.array, expected.array)
        assert table.names == ("GTV",) and tab.problems == []
