"""The whole way in a browser, by mouse: draw, fit, look, download; and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed (the extra [web])")
pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")
pytest.importorskip("trame_slicer", reason="trame-slicer is not installed (the extra [web])")

from web_support import Server, Tab

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.io import read_scribble_segments, read_segmentation, read_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import same_geometry

SIZE = {"width": 1280, "height": 800}
TABLE = LabelTable.from_names(["GTV"])
PLANES = ("Axial1", "Sagittal1", "Coronal1")


@pytest.fixture(scope="module")
def tab(browser: object, server: Server) -> Iterator[Tab]:
    """One browser for the tests of this file, which go on from each other's page in their order."""
    context = browser.new_context(viewport=SIZE, accept_downloads=True)
    tab = Tab(context, server.url)
    tab.wait_for_images()
    yield tab
    context.close()


def draw_both(tab: Tab) -> None:
    """Strokes of the tumour and of background, on two slices."""
    tab.choose("GTV")
    tab.drag("Axial1", (0.49, 0.46), (0.54, 0.46))
    tab.choose("Background")
    tab.drag("Axial1", (0.3, 0.72), (0.5, 0.85), (0.7, 0.72))
    tab.drag("Sagittal1", (0.7, 0.35), (0.75, 0.6))
    tab.wait(lambda: all(tab.counts()))
    tab.settled_counts()


def fit(tab: Tab, seconds: int) -> None:
    tab.page.select_option("#cms-seconds", str(seconds))
    tab.page.click("#cms-start")
    tab.wait(lambda: tab.is_running)


def test_the_page_opens_with_its_images(tab: Tab) -> None:
    assert tab.page.locator(".image-name").all_inner_texts() == ["ct", "mr"]
    assert "CT and MR share a grid" in tab.text(".panel")
    assert tab.page.title() == "CrossModalSeg"
    assert tab.page.locator("#cms-start").is_disabled()


def test_left_is_the_patients_left(tab: Tab) -> None:
    sides = {name: tab.page.locator(f'[data-view="{name}"] .over-side').all_inner_texts() for name in PLANES}
    assert sides == {"Axial1": [*"RLAP"], "Sagittal1": [*"APSI"], "Coronal1": [*"RLSI"]}
    tab.tool("look")
    for x, side in ((0.6, "L "), (0.4, "R ")):
        tab.drag("Axial1", (x, 0.5))
        tab.wait(lambda side=side: tab.where("Sagittal1").startswith(side), 5)
    for y, side in ((0.4, "A "), (0.6, "P ")):
        tab.drag("Axial1", (0.5, y))
        tab.wait(lambda side=side: tab.where("Coronal1").startswith(side), 5)
    tab.page.click('button[title="Show all of the images"]')


def test_strokes_are_drawn_with_the_mouse(tab: Tab) -> None:
    assert tab.redness("Axial1") == 0
    tab.choose("GTV")
    tab.drag("Axial1", (0.49, 0.46), (0.54, 0.46))
    tab.wait(lambda: tab.redness("Axial1") > 30)
    first = tab.settled_counts()[0]
    tab.drag("Axial1", (0.49, 0.52), (0.54, 0.52))
    tab.wait(lambda: tab.counts()[0] > first)
    second = tab.settled_counts()[0]
    tab.page.keyboard.press("Control+z")
    tab.wait(lambda: tab.counts()[0] == first)
    tab.page.click('[data-key="can_redo"]')
    tab.wait(lambda: tab.counts()[0] == second)


def test_what_is_being_typed_stays_though_the_page_changes(tab: Tab) -> None:
    field = tab.page.locator("input.label-name")
    field.fill("Tumour b")
    tab.wheel("Axial1", -300)
    before = tab.where("Axial1")
    tab.wait(lambda: tab.where("Axial1") != before)
    assert field.input_value() == "Tumour b"
    field.press("Enter")
    tab.wait(lambda: "Draw Tumour b" in tab.page.locator(".swatch").first.get_attribute("aria-label"))
    assert field.input_value() == "Tumour b"
    field.fill(" ")
    field.press("Enter")
    assert "one line of text" in tab.wait(tab.error)
    tab.wait(lambda: field.count() and field.input_value() == "Tumour b")
    field.fill("GTV")
    field.press("Enter")
    tab.wait(lambda: "Draw GTV" in tab.page.locator(".swatch").first.get_attribute("aria-label"))
    assert tab.error() == "", "a complaint goes when what it was about succeeds"
    tab.page.click('button[title="Show all of the images"]')


def test_a_link_on_another_site_leads_to_the_same_page(tab: Tab) -> None:
    counts = tab.settled_counts()
    other = tab.context.new_page()
    other.goto(f"data:text/html,<a href='{tab.url}'>go</a>")
    other.click("a")
    other.wait_for_selector(".count")
    assert [int(text) for text in other.locator(".count").all_inner_texts()] == counts != [0, 0]
    other.close()


def test_strokes_are_erased_with_the_mouse(tab: Tab) -> None:
    before = tab.settled_counts()[0]
    tab.tool("erase")
    tab.drag("Axial1", (0.47, 0.52), (0.56, 0.52))
    tab.wait(lambda: tab.counts()[0] < before)
    tab.page.click("text=Clear")
    tab.wait(lambda: tab.counts() == [0, 0])
    tab.wait(lambda: tab.redness("Axial1") == 0)


def test_quick_strokes_keep_their_corners(tab: Tab, tmp_path: Path) -> None:
    """However slowly the views are drawn, nothing between two pictures is skipped."""
    tab.choose("GTV")
    tab.page.locator("#cms-brush_mm").fill("1")
    corners = [(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6), (0.4, 0.4)]
    tab.drag("Axial1", *corners)
    tab.settled_counts()
    drawn = read_scribble_segments(tab.download("scribbles.seg.nrrd", tmp_path / "s.seg.nrrd"), TABLE).array
    (_, rows, columns) = np.nonzero(drawn == 1)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert rows.size == 2 * (height + width) - 4
    tab.page.locator("#cms-brush_mm").fill("6")
    tab.page.click("text=Clear")
    tab.wait(lambda: tab.counts() == [0, 0])


def test_strokes_lie_under_the_mouse_though_another_tab_has_other_views(tab: Tab) -> None:
    other = tab.context.new_page()
    other.set_viewport_size({"width": 900, "height": 1000})
    other.goto(tab.url)
    other.wait_for_selector(".panel")
    # The picture has the shape of the other tab's views, and is cut off here.
    tab.wait(lambda: _shape(tab.page, "img")[1] > _shape(tab.page, ".remote-controlled-area")[1] + 50)
    tab.page.wait_for_timeout(1000)
    tab.choose("GTV")
    tab.drag("Axial1", (0.4, 0.25), (0.6, 0.25))
    assert tab.wait(lambda: _red_row(tab)) == pytest.approx(0.25, abs=0.03)
    tab.page.click("text=Clear")
    tab.wait(lambda: tab.counts() == [0, 0] and tab.redness("Axial1") == 0)
    other.close()
    tab.page.evaluate("window.dispatchEvent(new Event('focus'))")
    tab.wait(lambda: _shape(tab.page, "img") == pytest.approx(_shape(tab.page, ".remote-controlled-area"), abs=1.5))


def test_a_large_view_is_drawn_coarser_and_strokes_lie_under_the_mouse(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 2400, "height": 1400})
    tab.page.click('[data-view="Axial1"] .over-focus')
    picture = tab.page.locator('[data-view="Axial1"] img').first
    pixels = "img => img.naturalWidth * img.naturalHeight"
    tab.wait(lambda: 1_400_000 < picture.evaluate(pixels) <= 1_500_000)
    tab.wait(lambda: _shape(tab.page, "img") == pytest.approx(_shape(tab.page, ".remote-controlled-area"), abs=1.5))
    tab.page.wait_for_timeout(1000)
    tab.choose("GTV")
    tab.drag("Axial1", (0.45, 0.25), (0.55, 0.25))
    assert tab.wait(lambda: _red_row(tab)) == pytest.approx(0.25, abs=0.02)
    tab.page.click("text=Clear")
    tab.wait(lambda: tab.counts() == [0, 0] and tab.redness("Axial1") == 0)
    tab.page.click('[data-view="Axial1"] .over-focus')
    tab.page.set_viewport_size(SIZE)
    tab.wait(lambda: tab.page.locator(".view").count() == 4)
    tab.wait(lambda: _shape(tab.page, "img") == pytest.approx(_shape(tab.page, ".remote-controlled-area"), abs=1.5))


def _shape(page: object, part: str) -> tuple[float, float]:
    """Width and height of a part of the axial view."""
    box = page.locator(f'[data-view="Axial1"] {part}').first.bounding_box()
    return box["width"], box["height"]


def _red_row(tab: Tab) -> float:
    """Where red is in the axial view, as a share of its height; 0 where nowhere."""
    pixels = tab.pixels("Axial1")
    rows, _ = np.nonzero(pixels[..., 0] - pixels[..., 1:].max(axis=-1) > 40)
    return (rows.mean() + 45) / (len(pixels) + 75) if rows.size > 30 else 0.0


def test_the_wheel_scrolls_and_a_click_brings_all_slices(tab: Tab) -> None:
    where = {name: tab.where(name) for name in ("Axial1", "Sagittal1", "Coronal1")}
    tab.wheel("Axial1", -300)
    scrolled = tab.wait(lambda: tab.where("Axial1") != where["Axial1"] and tab.where("Axial1"))
    tab.tool("look")
    tab.drag("Sagittal1", (0.35, 0.4))
    tab.wait(lambda: tab.where("Axial1") != scrolled and tab.where("Coronal1") != where["Coronal1"])
    assert tab.where("Sagittal1") == where["Sagittal1"]
    tab.page.click('button[title="Show all of the images"]')
    tab.wait(lambda: {name: tab.where(name) for name in where} == where)


def test_a_narrow_window_hides_no_tool(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 640, "height": 600})
    buttons = tab.page.locator(".toolbar button")
    for button in buttons.all():
        box = button.bounding_box()
        assert box["x"] >= 332 and box["x"] + box["width"] <= 640
    tab.page.set_viewport_size(SIZE)
    tab.wait(lambda: _shape(tab.page, "img") == pytest.approx(_shape(tab.page, ".remote-controlled-area"), abs=1.5))


def test_a_use_that_cannot_be_is_shown_as_what_it_was(tab: Tab) -> None:
    tab.page.click("text=By reference")
    uses = tab.page.locator('select[aria-label^="Use of"]')
    tab.wait(lambda: [use.input_value() for use in uses.all()] == ["reference", "target"])
    uses.first.select_option("none")
    tab.wait(lambda: [use.input_value() for use in uses.all()] == ["none", "reference"])
    uses.last.select_option("target")
    tab.wait(lambda: uses.last.input_value() == "reference")
    uses.first.select_option("reference")
    tab.wait(lambda: [use.input_value() for use in uses.all()] == ["reference", "target"])
    tab.page.click("text=CT and MR")
    tab.wait(lambda: [use.input_value() for use in uses.all()] == ["ct", "mr"])


def test_a_structure_is_chosen_by_the_keyboard(tab: Tab) -> None:
    for name in ("Background", "GTV"):
        swatch = tab.page.get_by_role("button", name=f"Draw {name}", exact=True)
        swatch.press("Enter")
        tab.wait(lambda swatch=swatch: swatch.get_attribute("aria-pressed") == "true")
    assert tab.page.get_by_role("button", name="Draw scribbles").get_attribute("aria-pressed") == "true"


def test_what_is_drawn_is_not_removed_by_one_click(tab: Tab) -> None:
    tab.page.click("text=Add structure")
    tab.wait(lambda: len(tab.counts()) == 3)
    tab.choose("Structure 1")
    tab.drag("Axial1", (0.3, 0.3), (0.35, 0.3))
    tab.wait(lambda: tab.counts()[1])
    remove = tab.page.locator('button[title^="Remove the structure"]').nth(1)
    asked = []

    def answer(dialog: object) -> None:
        asked.append(dialog.message)
        (dialog.accept if len(asked) > 1 else dialog.dismiss)()

    tab.page.on("dialog", answer)
    remove.click()
    tab.page.wait_for_timeout(1000)
    assert asked == ["Remove Structure 1 with its scribbles?"] and len(tab.counts()) == 3
    remove.click()
    tab.wait(lambda: len(tab.counts()) == 2)
    tab.page.click("text=Add structure")
    tab.wait(lambda: len(tab.counts()) == 3)
    remove.click()
    tab.wait(lambda: len(tab.counts()) == 2)
    assert len(asked) == 2, "of an empty one nobody asks"
    tab.page.remove_listener("dialog", answer)


def test_images_are_blended_and_side_by_side(tab: Tab) -> None:
    only_ct = tab.pixels("Axial1")
    tab.page.locator("#cms-blend").fill("1")
    tab.wait(lambda: np.abs(tab.pixels("Axial1") - only_ct).mean() > 5)
    tab.wait(lambda: tab.text('[data-view="Axial1"] .over-title') == "MR · axial")
    tab.page.click('[data-layout="side"]')
    tab.wait(lambda: tab.page.locator(".view").count() == 6)
    tab.wait(lambda: tab.pixels("Axial2").std() > 10)
    before = tab.where("Axial1")
    tab.wheel("Axial2", -300)
    tab.wait(lambda: tab.where("Axial1") == tab.where("Axial2") != before)
    tab.wheel("Axial2", 300)
    tab.wait(lambda: tab.where("Axial1") == before)
    tab.page.click('[data-layout="four"]')
    tab.page.locator("#cms-blend").fill("0")
    tab.wait(lambda: tab.page.locator(".view").count() == 4)
    tab.wait(lambda: tab.text('[data-view="Axial1"] .over-title') == "CT · axial")


def test_a_fit_gives_the_voxels_that_the_library_gives(tab: Tab, phantom: dict[str, Path], tmp_path: Path) -> None:
    from CrossModalSegLib.fitting.fit_case import FitConfig, fit_case

    draw_both(tab)
    before = tab.redness("Sagittal1")
    fit(tab, 0)
    tab.wait(lambda: not tab.is_running, 60)
    assert tab.error() == ""
    tab.wait(lambda: tab.redness("Sagittal1") > before + 50)
    table = tab.text(".table")
    assert "GTV" in table and "DSC" in tab.wait(lambda: "DSC" in tab.text(".table") and tab.text(".table"))

    downloaded, _ = read_segmentation(tab.download("0.nii.gz", tmp_path / "result.nii.gz"))
    segments, names = read_segmentation(tab.download("0.seg.nrrd", tmp_path / "result.seg.nrrd"))
    strokes = read_scribble_segments(tab.download("scribbles.seg.nrrd", tmp_path / "scribbles.seg.nrrd"), TABLE)
    ct = read_volume(phantom["ct"])
    images = {"ct": ct, "mr": read_volume(phantom["mr"])}
    config = FitConfig(seconds=0.0, seed=0, preview_every=5.0)
    expected = fit_case(LoadedCase("case", images, ct.with_array(strokes.array), None), TABLE, config).labels
    assert same_geometry(downloaded, ct)
    assert np.count_nonzero(expected.array) > 20
    np.testing.assert_array_equal(downloaded.array, expected.array)
    np.testing.assert_array_equal(segments.array, expected.array)
    assert names.names == ("GTV",)


def test_a_cancelled_fit_brings_the_former_result_back(tab: Tab, tmp_path: Path) -> None:
    former = read_volume(tab.download("0.nii.gz", tmp_path / "former.nii.gz")).array
    counts = tab.counts()
    fit(tab, 300)
    tab.wait(lambda: tab.page.locator("details.curve polyline").count() > 0, 60)
    tab.page.click("#cms-cancel")
    tab.wait(lambda: not tab.is_running, 5)
    assert tab.error() == ""
    np.testing.assert_array_equal(read_volume(tab.download("0.nii.gz", tmp_path / "now.nii.gz")).array, former)
    assert tab.counts() == counts
    assert tab.problems == []


def test_a_reloaded_page_keeps_its_run(tab: Tab) -> None:
    counts = tab.counts()
    fit(tab, 300)
    tab.page.reload()
    tab.page.wait_for_selector(".panel")
    tab.wait_for_images()
    assert tab.is_running
    assert tab.counts() == counts
    for name in ("Background", "GTV"):
        tab.choose(name)
        tab.wait(lambda name=name: _chosen(tab) == name, 5)
    tab.wait(lambda: tab.redness("Sagittal1") > 500)


def _chosen(tab: Tab) -> str:
    return tab.page.locator(".label.chosen .swatch").get_attribute("aria-label").removeprefix("Draw ")


def test_a_run_is_paused_and_ended_with_its_best_answer(tab: Tab) -> None:
    tab.page.click("text=Pause")
    tab.wait(lambda: "(paused)" in tab.text(".running"))
    tab.page.click("text=Resume")
    tab.wait(lambda: "(paused)" not in tab.text(".running"))
    tab.page.click("text=Keep best")
    tab.wait(lambda: not tab.is_running, 30)
    assert tab.error() == ""
    tab.wait(lambda: "DSC" in tab.text(".table"))


def test_a_choice_counts_though_the_click_comes_before_it(tab: Tab) -> None:
    """A busy page sends what was chosen only when it has time, but clicks at once."""
    tab.page.evaluate("window.trame.state.flush = async () => {}")
    fit(tab, 0)
    tab.wait(lambda: not tab.is_running, 60)
    assert tab.page.locator("details.curve").count() == 0, "there is no curve of a first answer"
    assert tab.error() == ""
    tab.page.reload()
    tab.page.wait_for_selector(".panel")
    tab.wait_for_images()


def test_what_is_said_of_a_lost_run_goes_when_the_next_one_begins(tab: Tab, server: Server) -> None:
    fit(tab, 300)
    tab.wait(lambda: tab.page.locator("details.curve polyline").count() > 0, 60)
    server.kill_workers()
    assert "The worker stopped unexpectedly" in tab.wait(tab.error)
    fit(tab, 0)
    assert tab.error() == ""
    tab.wait(lambda: not tab.is_running, 60)
    assert tab.error() == ""


def test_a_bad_file_gives_a_sentence_and_leaves_nothing(
    tab: Tab, server: Server, phantom: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "Doe, Jane.nii.gz"
    bad.write_bytes(b"\x1f\x8b\x08no image")
    good = tmp_path / "good.nii.gz"
    good.write_bytes(phantom["mr"].read_bytes())
    tab.page.set_input_files("#cms-files", [bad, good])
    sentence = tab.wait(tab.error)
    assert "Doe_ Jane.nii.gz" in sentence and "corrupt" in sentence
    assert str(server.temporary) not in sentence
    tab.page.click(".message .icon-button")
    tab.wait(lambda: tab.error() == "")
    assert [name for name in server.files() if "Doe" in name] == []
    tab.wait_for_images(3)
    tab.page.locator('button[title^="Remove the image"]').last.click()
    tab.wait_for_images(2)


def test_a_second_browser_sees_nothing_of_the_first_ones(
    tab: Tab, browser: object, server: Server, phantom: dict[str, Path], tmp_path: Path
) -> None:
    private = tmp_path / "private.nii.gz"
    private.write_bytes(phantom["mr"].read_bytes())
    tab.send(private)
    tab.wait_for_images(3)
    assert tab.page.locator(".image-name").all_inner_texts()[-1] == "private"
    assert [name for name in server.files() if "private" in name] == []
    assert tab.page.request.get(f"{server.url}download/0.nii.gz").status == 200

    context = browser.new_context(viewport=SIZE)
    assert context.request.get(f"{server.url}download/0.nii.gz").status == 403
    other = Tab(context, server.url)
    other.wait_for_images()
    assert other.page.locator(".image-name").all_inner_texts() == ["ct", "mr"]
    assert other.counts() == [0, 0]
    assert context.request.get(f"{server.url}download/0.nii.gz").status == 409
    assert other.wait(other.error) == "There is no segmentation of this image."
    other.choose("GTV")
    other.drag("Axial1", (0.49, 0.46), (0.54, 0.46))
    other.wait(lambda: other.counts()[0])
    assert context.request.get(f"{server.url}download/scribbles.seg.nrrd").status == 200
    other.wait(lambda: other.error() == "")
    assert other.problems == []
    context.close()


def test_ending_the_page_deletes_its_data(tab: Tab, server: Server) -> None:
    folders = len(_private_folders(server))
    tab.page.click('button[title="More"]')
    tab.page.click("text=Delete my data and end")  # a browser that nobody answers for says no
    tab.page.wait_for_timeout(500)
    assert len(_private_folders(server)) == folders and tab.page.locator(".image").count()
    tab.page.once("dialog", lambda dialog: dialog.accept())
    tab.page.click("text=Delete my data and end")
    tab.page.wait_for_selector("text=This page has ended")
    assert len(_private_folders(server)) == folders - 1


def test_the_program_ends_with_all_that_it_started(server: Server) -> None:
    assert server.stop() == 0
    assert server.files() == []
    assert list(server.temporary.glob("tmp*")) == []
    assert "ct.nii.gz" not in server.said


def test_a_start_with_a_bad_file_goes_on(browser: object, tmp_path: Path) -> None:
    bad = tmp_path / "ct.nii.gz"
    bad.write_bytes(b"\x1f\x8b\x08no image")
    with Server(["--ct", bad], tmp_path) as server:
        context = browser.new_context(viewport=SIZE)
        tab = Tab(context, server.url)
        assert "ct.nii.gz" in tab.wait(tab.error)
        tab.page.click("text=By reference")
        tab.wait(lambda: tab.page.locator('select[aria-label="Model"]').count() == 1)
        tab.page.click("text=CT and MR")
        tab.page.click("text=Add structure")
        tab.wait(lambda: tab.page.locator(".label.chosen input").input_value() == "Structure 2")
        tab.page.click("text=Try the phantom")
        tab.wait_for_images()
        # Its table has one structure, and that is chosen now.
        tab.wait(lambda: tab.page.locator(".label.chosen input").input_value() == "GTV")
        tab.page.click(".message .icon-button")
        tab.tool("draw")
        tab.drag("Axial1", (0.49, 0.46), (0.54, 0.46))
        tab.wait(lambda: tab.counts()[0] > 0)
        assert tab.error() == "" and tab.problems == []
        context.close()


def test_a_lost_connection_is_told_and_comes_back(browser: object, phantom: dict[str, Path], tmp_path: Path) -> None:
    with Server(["--ct", phantom["ct"], "--labels", "GTV"], tmp_path) as server:
        context = browser.new_context(viewport=SIZE)
        context.add_init_script(
            "const Real = WebSocket; window.sockets = [];"
            "window.WebSocket = class extends Real { constructor(...all) { super(...all); sockets.push(this); } }"
        )
        tab = Tab(context, server.url)
        tab.wait_for_images(1)
        tab.choose("GTV")
        tab.drag("Axial1", (0.49, 0.46), (0.54, 0.46))
        tab.wait(lambda: tab.counts()[0])
        counts = tab.settled_counts()
        tab.page.evaluate("sockets.forEach((each) => each.close())")
        tab.page.wait_for_selector("text=The connection is lost")
        tab.page.wait_for_selector(".panel")
        tab.wait(lambda: tab.counts() == counts)
        server.stop()
        tab.page.wait_for_selector("text=The connection is lost")
        context.close()


def _private_folders(server: Server) -> list[Path]:
    return [path for path in server.temporary.glob("crossmodalseg-jobs-*/*") if path.is_dir()]
