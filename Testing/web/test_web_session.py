"""What a page does with images, classes, strokes and results, on real MRML and without a browser."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")

from CrossModalSegLib.errors import InputError, LabelError, OutputError
from CrossModalSegLib.io import read_scribble_segments, read_segmentation, write_segmentation, write_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.headless import HeadlessScene
from CrossModalSegLib.scene.segmentations import has_3d
from CrossModalSegLib.scene.surfaces import Solids
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.web.downloads import download_of
from CrossModalSegLib.web.picture import picture
from CrossModalSegLib.web.session import Session
from CrossModalSegLib.worker.messages import (
    AutoBackgroundResult,
    EvaluateRequest,
    EvaluateResult,
    FitRequest,
    FitResult,
    Model,
    ModelsResult,
    ReferRequest,
    ReferResult,
    RegisterResult,
    SegmentResult,
)
from grids import grid_affine
from worker_stand_in import FakeClient, FakeJob

SHAPE = (4, 6, 8)
OBLIQUE = grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0))


class Choices:
    """What the person chose in the page."""

    model, kind, layout, blend = "", "fit", "four", 0.0


@pytest.fixture(scope="module")
def headless() -> HeadlessScene:
    return HeadlessScene()


class Said:
    def __init__(self) -> None:
        self.errors: list[str] = []


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def session(headless: HeadlessScene, client: FakeClient, said: Said) -> Session:
    headless.scene.Clear(0)
    return Session(headless.scene, client, labels=("GTV",), on_error=said.errors.append)


def ct() -> Volume:
    return Volume(np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16), OBLIQUE)


def mr() -> Volume:
    return Volume(np.random.default_rng(1).integers(0, 900, SHAPE).astype(np.int16), OBLIQUE)


def pair(session: Session) -> Session:
    session.add_image(mr(), "m")
    session.add_image(ct(), "c")
    return session


def scribble(session: Session) -> None:
    session.drawing.draw(1, np.array([3, 4]))
    session.drawing.draw(0, np.array([100]))
    session.end_stroke()


def fit_result(array: np.ndarray) -> FitResult:
    labels = ct().with_array(array.astype(np.uint8))
    return FitResult(labels, {"GTV": 1.5}, {}, None, {}, (), False, True, "cpu", 1.0)


def test_images_are_told_apart_by_their_values(session: Session) -> None:
    pair(session)
    assert [(image.name, image.roles["fit"]) for image in session.used] == [("c", "ct"), ("m", "mr")]
    assert session.primary.name == "c"
    assert session.placement().state == "same grid"


def test_a_second_image_of_a_kind_waits(session: Session) -> None:
    pair(session).add_image(ct(), "d")
    assert [image.name for image in session.used] == ["c", "m"]
    third = session.images[2].identity
    session.set_role(third, "ct")
    assert [image.name for image in session.used] == ["d", "m"]


def test_the_first_image_is_the_reference_of_the_others(session: Session) -> None:
    pair(session).set_mode("refer")
    assert [(image.name, image.roles["refer"]) for image in session.used] == [("m", "reference"), ("c", "target")]
    session.set_role(session.images[1].identity, "reference")
    assert [image.name for image in session.used] == ["c", "m"]


def test_a_target_is_shown_beside_the_reference(session: Session) -> None:
    pair(session).set_mode("refer")
    session.add_image(mr(), "n")
    assert [image.name for image in session.used] == ["m", "c", "n"]
    session.show_image(session.images[2].identity)
    assert [image.name for image in session.used] == ["m", "n", "c"]


def test_there_is_always_a_reference(session: Session) -> None:
    """Else a target would be drawn on and taken for it, but called a target."""
    pair(session).set_mode("refer")
    session.add_image(mr(), "n")
    m, c, n = session.images

    def roles() -> dict[str, str]:
        return {image.name: image.roles["refer"] for image in session.images}

    session.set_role(m.identity, "target")
    assert roles() == {"m": "target", "c": "reference", "n": "target"}
    session.remove_image(c.identity)
    assert roles() == {"m": "reference", "n": "target"}
    session.set_role(m.identity, "none")
    assert roles() == {"m": "none", "n": "reference"}
    session.set_role(n.identity, "target")
    assert roles() == {"m": "none", "n": "reference"}
    session.set_role(n.identity, "none")
    assert roles() == {"m": "none", "n": "none"} and session.primary is None


def test_one_of_several_targets_is_shown_by_its_name(session: Session) -> None:
    pair(session).set_mode("refer")
    assert picture(session, Choices())["second_title"] == "Target"
    assert picture(session, Choices())["alignment"] == "Reference and Target share a grid"
    session.add_image(mr(), "n")
    assert picture(session, Choices())["second_title"] == "c"
    assert picture(session, Choices())["alignment"] == "Reference and c share a grid"


def test_images_of_other_places_are_apart(session: Session) -> None:
    far = OBLIQUE.copy()
    far[:3, 3] += 900.0
    pair(session).add_image(Volume(mr().array, far), "far")
    assert session.placement().state != "apart"
    session.set_role(session.images[2].identity, "mr")
    assert session.placement().state == "apart" and session.placement().overlap == 0


def test_unknown_roles_are_refused(session: Session) -> None:
    with pytest.raises(InputError, match="can be used as CT, MR, Other, Not used; got 'pet'"):
        session.set_role(pair(session).images[0].identity, "pet")


def test_strokes_stay_with_their_image(session: Session) -> None:
    pair(session)
    scribble(session)
    session.set_mode("refer")
    assert session.counts() == {"GTV": 0, "Background": 0}
    session.set_mode("fit")
    assert session.counts() == {"GTV": 2, "Background": 1}
    session.undo_stroke()
    assert session.counts() == {"GTV": 2, "Background": 0}
    session.redo_stroke()
    assert session.counts() == {"GTV": 2, "Background": 1}


def test_images_with_work_are_known(session: Session, client: FakeClient) -> None:
    pair(session)

    def with_work() -> list[str]:
        return [each["name"] for each in picture(session, Choices())["images"] if each["has_work"]]

    assert with_work() == []
    scribble(session)
    session.fit(0.0)
    client.jobs[-1].done(fit_result(np.ones(SHAPE)))
    session.set_mode("refer")
    assert with_work() == ["c"]
    session.set_mode("fit")
    session.clear_strokes()
    assert with_work() == ["c"], "there is a result"
    session.undo_result()
    assert with_work() == []


def test_what_is_missing_depends_on_the_mode(session: Session) -> None:
    pair(session)
    assert session.missing() == ["GTV", "Background"]
    session.set_mode("refer")
    assert session.missing() == ["GTV"]


def test_classes_keep_their_strokes(session: Session) -> None:
    pair(session)
    scribble(session)
    session.add_class("Node")
    session.rename_class("GTV", "Tumor")
    session.drawing.draw(2, np.array([50]))
    session.end_stroke()
    session.remove_class("Tumor")
    assert session.counts() == {"Node": 1, "Background": 1}
    with pytest.raises(LabelError, match="at least one class"):
        session.remove_class("Node")


def test_other_structures_leave_the_history_of_strokes(session: Session) -> None:
    """ "GTV" over background, both on the first image; undo and redo go on though structures come, change and go."""
    pair(session)
    scribble(session)
    session.drawing.draw(1, np.array([100]))
    session.end_stroke()
    session.add_class("Node")
    session.rename_class("GTV", "Tumor")
    session.undo_stroke()
    assert session.counts() == {"Tumor": 2, "Node": 0, "Background": 1}
    session.redo_stroke()
    assert session.counts() == {"Tumor": 3, "Node": 0, "Background": 0}
    session.drawing.draw(2, np.array([4, 50]))
    session.end_stroke()
    session.set_mode("refer")
    session.remove_class("Tumor")
    session.set_mode("fit")
    assert session.counts() == {"Node": 2, "Background": 0}
    session.undo_stroke()
    assert session.counts() == {"Node": 0, "Background": 0}, "what was the tumour's is erased"
    session.undo_stroke()
    assert session.counts() == {"Node": 0, "Background": 1}
    session.undo_stroke()
    assert not session.drawing.can_undo and session.counts() == {"Node": 0, "Background": 0}
    for _ in range(3):
        session.redo_stroke()
    assert session.counts() == {"Node": 2, "Background": 0}


def test_a_fit_is_asked_for_and_shown(session: Session, client: FakeClient) -> None:
    pair(session)
    scribble(session)
    session.fit(30.0)
    job = client.jobs[-1]
    assert isinstance(job.request, FitRequest)
    assert list(job.request.images) == ["ct", "mr"]
    assert np.flatnonzero(job.request.scribbles.array != 255).tolist() == [3, 4, 100]
    assert session.is_busy
    with pytest.raises(InputError, match="Fitting is still going on"):
        session.add_class("x")
    time.sleep(0.05)  # loading and the first answer are not part of the curve
    job.tell(loss=0.5)
    job.tell(loss=0.25)
    assert session.run.curve[0][0] < 0.05
    mask = np.zeros(SHAPE)
    mask[1, 2, 3] = 1
    job.preview(ct().with_array(mask.astype(np.uint8)))
    assert session.result is not None
    shown = picture(session, Choices())
    assert shown["busy"] and shown["run_eta"] == "3 s left" and "polyline" in shown["curve"]
    job.done(fit_result(mask))
    shown = picture(session, Choices())
    assert not shown["busy"] and shown["has_result"]
    assert [row["values"] for row in shown["rows"]] == [["1.5"]]


def wait_for_surfaces(session: Session) -> None:
    until = time.monotonic() + 10.0
    session.follow_surfaces()
    while session.surface_state == "making" and time.monotonic() < until:
        time.sleep(0.01)
        session.follow_surfaces()


def test_surfaces_are_made_beside_the_page(
    session: Session, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a former result, after a run of it was cancelled or taken back; nothing is converted in between."""

    def convert(_node: object, show_3d: bool, had_surfaces: bool) -> None:
        assert not show_3d and not had_surfaces

    for module in ("segmentations", "preview"):
        monkeypatch.setattr(f"CrossModalSegLib.scene.{module}.make_surfaces", convert)
    pair(session)
    scribble(session)
    assert session.surface_state == "none"

    def run(rows: int) -> None:
        session.fit(0.0)
        mask = np.zeros(SHAPE)
        mask[:, 1 : 1 + rows, 1:7] = 1
        client.jobs[-1].done(fit_result(mask))
        assert not has_3d(session.result)
        wait_for_surfaces(session)

    def height() -> float:
        segment = session.result.GetSegmentation().GetNthSegment(0)
        bounds = segment.GetRepresentation("Closed surface").GetBounds()
        return bounds[3] - bounds[2]

    run(2)
    assert session.surface_state == "full"
    low = height()
    run(4)
    high = height()
    assert high > low + 0.5
    session.fit(30.0)
    client.jobs[-1].preview(ct().with_array(np.ones(SHAPE, np.uint8)))
    session.follow_surfaces()
    assert not has_3d(session.result)
    session.cancel()
    client.jobs[-1].fail("cancelled", "The job was stopped.")
    wait_for_surfaces(session)
    assert height() == pytest.approx(high)
    session.undo_result()
    wait_for_surfaces(session)
    assert height() == pytest.approx(low)
    session.shows_surfaces = False
    session.undo_result()
    wait_for_surfaces(session)
    assert session.surface_state == "none"


def test_coarse_surfaces_are_called_so(session: Session, client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Solids.surfaces, "__defaults__", (100,))
    pair(session)
    scribble(session)
    session.fit(0.0)
    client.jobs[-1].done(fit_result(np.ones(SHAPE)))
    assert session.surface_state == "full"
    wait_for_surfaces(session)
    assert session.surface_state == "reduced"
    assert session.result.GetSegmentation().GetNthSegment(0).GetRepresentation("Closed surface").GetNumberOfCells() > 0


def test_a_download_has_the_name_of_its_image_in_any_script(session: Session, client: FakeClient) -> None:
    session.add_image(ct(), "Müller 肝脏")
    scribble(session)
    session.fit(0.0)
    client.jobs[-1].done(fit_result(np.ones(SHAPE)))
    download = download_of(session, "0.nii.gz")
    assert download.name == "Müller 肝脏 segmentation.nii.gz"
    plain, named = download.disposition.removeprefix("attachment; ").split("; ")
    assert plain == 'filename="M_ller __ segmentation.nii.gz"'
    assert unquote(named.removeprefix("filename*=UTF-8''")) == download.name and named.isascii()


def test_a_download_that_finds_no_room_goes_by_its_own_name(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair(session)
    scribble(session)
    monkeypatch.setattr("SimpleITK.WriteImage", lambda _image, path, _compress: Path(path).write_bytes(b""))
    with pytest.raises(OutputError, match=r"^'c scribbles.seg.nrrd' could not be written completely"):
        download_of(session, "scribbles.seg.nrrd").content(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_told_again_and_again_is_shown_once(session: Session, client: FakeClient) -> None:
    pair(session)
    scribble(session)
    session.fit(300.0)
    for sentence in ("It is slow.", "No space.", "No space."):
        client.jobs[-1].log(sentence)
    assert picture(session, Choices())["note"] == "It is slow. No space."


def test_a_fit_that_was_asked_to_stop_says_so(session: Session, client: FakeClient) -> None:
    pair(session)
    scribble(session)
    session.fit(30.0)
    assert picture(session, Choices())["can_finish"]
    session.finish()
    shown = picture(session, Choices())
    assert shown["run_message"] == "Stopping with the first answer, once it is there" and not shown["can_finish"]
    client.jobs[-1].tell(loss=0.5)
    assert picture(session, Choices())["run_message"] == "Stopping with the best answer so far"
    client.jobs[-1].done(fit_result(np.ones(SHAPE)))
    session.fit(30.0)
    assert picture(session, Choices())["can_finish"]


def test_a_cancelled_fit_leaves_nothing(session: Session, client: FakeClient, said: Said) -> None:
    pair(session)
    scribble(session)
    session.fit(30.0)
    job = client.jobs[-1]
    job.preview(ct().with_array(np.ones(SHAPE, np.uint8)))
    session.cancel()
    assert job.asked == ["cancel"]
    job.fail("cancelled", "The job was stopped.")
    assert session.results == {} and said.errors == []
    assert session.counts() == {"GTV": 2, "Background": 1}


def test_a_failed_fit_says_why(session: Session, client: FakeClient, said: Said) -> None:
    pair(session)
    scribble(session)
    session.fit(30.0)
    client.jobs[-1].fail("memory", "There is not enough memory.")
    assert said.errors == ["There is not enough memory."]


def test_a_fit_without_background_is_refused(session: Session) -> None:
    pair(session).drawing.draw(1, np.array([3]))
    with pytest.raises(LabelError, match="no scribble of Background"):
        session.fit(1.0)


MEASURED = EvaluateResult(
    {
        "tolerances_mm": [1.0, 2.0],
        "labels": [{"name": "GTV", "volume_ml": 1.5, "dsc": 0.9, "asd_mm": 0.4, "nsd@1mm": 0.8, "nsd@2mm": None}],
    }
)


def add_mask(session: Session, folder: Path) -> np.ndarray:
    """Six voxels of GTV as the true mask, written to a file and taken in."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 2:4, 3:6] = 1
    write_segmentation(ct().with_array(mask), LabelTable.from_names(["GTV"]), folder / "mask.seg.nrrd")
    session.add_mask(*read_segmentation(folder / "mask.seg.nrrd"), "mask.seg.nrrd")
    return mask


def test_a_result_is_taken_back(session: Session, client: FakeClient) -> None:
    pair(session)
    scribble(session)
    session.fit(0.0)
    client.jobs[-1].done(fit_result(np.ones(SHAPE)))
    session.undo_result()
    assert session.results == {} and session.rows == []


def test_a_run_is_taken_back_at_once_though_it_was_measured(
    session: Session, client: FakeClient, tmp_path: Path
) -> None:
    pair(session)
    scribble(session)
    mask = add_mask(session, tmp_path)

    def measure() -> None:
        assert isinstance(client.jobs[-1].request, EvaluateRequest)
        client.jobs[-1].done(MEASURED)

    session.fit(0.0)
    client.jobs[-1].done(fit_result(mask))
    measure()
    session.segment("model")
    liver = LabelTable.from_names(["GTV", "liver"])
    answer = ct().with_array(np.full(SHAPE, 2, np.uint8))
    client.jobs[-1].done(SegmentResult(answer, liver, {"GTV": 0.0, "liver": 9.0}, {}, None, "cpu", 1.0))
    measure()
    session.undo_result()
    measure()
    (row,) = session.rows
    assert (row.structure, row.values["DSC"]) == ("GTV", 0.9)
    assert row.values["ml"] == pytest.approx(6 * ct().voxel_ml)
    found, table = session.result_labels(session.primary.identity)
    np.testing.assert_array_equal(found.array, mask)
    assert table.names == ("GTV",)
    session.undo_result()
    assert session.results == {} and session.rows == []
    assert not session.workflow.can_undo


def test_a_result_keeps_its_classes_whatever_happens_to_the_others(
    session: Session, client: FakeClient, said: Said
) -> None:
    pair(session)
    scribble(session)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1] = 1
    session.fit(0.0)
    client.jobs[-1].done(fit_result(mask))
    of_ct = session.primary.identity
    session.rename_class("GTV", "liver")

    def written() -> tuple[tuple[str, ...], list[int]]:
        found, table = session.result_labels(of_ct)
        return table.names, np.unique(found.array).tolist()

    session.fit(30.0)
    client.jobs[-1].preview(ct().with_array(np.ones(SHAPE, np.uint8)))
    session.cancel()
    client.jobs[-1].fail("cancelled", "The job was stopped.")
    assert written() == (("GTV",), [0, 1]), "a cancelled run of other classes"
    session.set_role(of_ct, "none")
    scribble(session)
    session.fit(0.0)
    labels = mr().with_array(mask)
    client.jobs[-1].done(FitResult(labels, {"liver": 1.5}, {}, None, {}, (), False, True, "cpu", 1.0))
    assert written() == (("GTV",), [0, 1]), "a run of other classes on another image"
    assert said.errors == []


def test_an_image_that_comes_during_a_run_gets_nothing_of_it(session: Session, client: FakeClient) -> None:
    session.add_image(mr(), "m")
    scribble(session)
    session.fit(30.0)
    session.add_image(ct(), "c")
    client.jobs[-1].preview(mr().with_array(np.ones(SHAPE, np.uint8)))
    assert session.primary.name == "c"
    assert [session.image(identity).name for identity in session.results] == ["m"]


def test_background_is_proposed_into_the_strokes(session: Session, client: FakeClient) -> None:
    """It is taken back as a stroke is, though another image is drawn on by then."""
    session.add_image(mr(), "m")
    session.drawing.draw(1, np.array([3]))
    session.auto_background()
    proposal = np.zeros(SHAPE, np.uint8)
    proposal[3] = 1
    session.add_image(ct(), "c")
    client.jobs[-1].done(AutoBackgroundResult(ct().with_array(proposal)))
    assert session.counts() == {"GTV": 0, "Background": 0} and not session.drawing.can_undo
    session.set_mode("refer")
    assert session.counts() == {"GTV": 1, "Background": 48}
    assert not session.workflow.can_undo
    session.undo_stroke()
    assert session.counts() == {"GTV": 1, "Background": 0}
    session.undo_stroke()
    assert session.counts() == {"GTV": 0, "Background": 0}
    session.redo_stroke()
    session.redo_stroke()
    assert session.counts() == {"GTV": 1, "Background": 48}


def test_results_are_written_on_the_grid_of_the_file_even_when_it_was_moved(
    session: Session, client: FakeClient
) -> None:
    pair(session)
    scribble(session)
    session.fit(0.0)
    mask = np.random.default_rng(2).integers(0, 2, SHAPE)
    client.jobs[-1].done(fit_result(mask))
    session.set_role(session.images[1].identity, "none")
    session.set_role(session.images[0].identity, "mr")
    session.set_role(session.images[1].identity, "ct")
    session.register()
    client.jobs[-1].tell(metric=0.9)
    client.jobs[-1].tell(metric=0.8)
    shown = picture(session, Choices())
    assert shown["curve"] == "", "mutual information is no loss"
    assert "answer" not in shown["run_message"]
    matrix = tuple(tuple(row) for row in grid_affine((1, 1, 1), (0.1, 0, 0), (5, 0, 0)).tolist())
    client.jobs[-1].done(RegisterResult(matrix, 1.0, 0.5, "auto", 3))
    found, table = session.result_labels(session.primary.identity)
    np.testing.assert_array_equal(found.array, mask)
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-6)
    assert table.names == ("GTV",)


def test_strokes_are_written_as_fit_reads_them(session: Session, tmp_path: Path) -> None:
    scribble(pair(session))
    write_segmentation(*session.stroke_labels(), tmp_path / "s.seg.nrrd")
    array = read_scribble_segments(tmp_path / "s.seg.nrrd", session.table).array.ravel()
    assert {int(place): int(array[place]) for place in np.flatnonzero(array != 255)} == {3: 1, 4: 1, 100: 0}


def test_nothing_is_no_download(session: Session) -> None:
    pair(session)
    with pytest.raises(InputError, match="Nothing is drawn yet"):
        session.stroke_labels()
    with pytest.raises(InputError, match="no segmentation of this image"):
        session.result_labels(session.primary.identity)


def measured(session: Session, client: FakeClient, tmp_path: Path) -> tuple[np.ndarray, FakeJob]:
    """A mask, and the job that measures a fit against it."""
    pair(session)
    scribble(session)
    mask = add_mask(session, tmp_path)
    session.fit(0.0)
    client.jobs[-1].done(fit_result(mask))
    return mask, client.jobs[-1]


def test_a_mask_is_measured_against(session: Session, client: FakeClient, tmp_path: Path) -> None:
    mask, measuring = measured(session, client, tmp_path)
    request = measuring.request
    assert isinstance(request, EvaluateRequest)
    np.testing.assert_array_equal(request.mask.array, mask)
    assert picture(session, Choices())["measuring"]
    client.jobs[-1].done(MEASURED)
    shown = picture(session, Choices())
    assert not shown["measuring"]
    heads = [f"{column['title']} {column['unit']}".strip() for column in shown["columns"]]
    assert heads == ["Volume ml", "DSC", "ASD mm", "NSD 1 mm", "NSD 2 mm"]
    assert shown["rows"][0]["values"] == ["1.5", "0.900", "0.40", "0.800", "–"]


@pytest.mark.parametrize("run", ["fit", "auto_background"])
@pytest.mark.parametrize("end", ["done", "fail"])
def test_no_run_waits_for_the_measuring_of_the_result_before(
    session: Session, client: FakeClient, said: Said, tmp_path: Path, run: str, end: str
) -> None:
    mask, measuring = measured(session, client, tmp_path)
    (session.auto_background if run == "auto_background" else partial(session.fit, 0.0))()
    assert measuring.asked == ["cancel without force"] and not session.is_measuring
    measuring.fail("cancelled", "The job was stopped.")
    if end == "fail":
        client.jobs[-1].fail("cancelled", "The job was stopped.")
    elif run == "fit":
        client.jobs[-1].done(fit_result(mask))
    else:
        client.jobs[-1].done(AutoBackgroundResult(ct().with_array(np.full(SHAPE, 255, np.uint8))))
    assert session.is_measuring and said.errors == []
    client.jobs[-1].done(MEASURED)
    assert session.rows[0].values["DSC"] == 0.9


def test_a_mask_takes_no_strokes_of_other_images_away(headless: HeadlessScene, tmp_path: Path) -> None:
    headless.scene.Clear(0)
    session = pair(Session(headless.scene, FakeClient()))
    scribble(session)
    session.set_mode("refer")
    add_mask(session, tmp_path)
    session.set_mode("fit")
    assert session.counts() == {"Structure 1": 2, "Background": 1}


def test_a_mask_of_other_classes_is_told_and_the_result_stays(
    session: Session, client: FakeClient, said: Said, tmp_path: Path
) -> None:
    pair(session)
    scribble(session)
    table = LabelTable.from_names(["liver"])
    write_segmentation(ct().with_array(np.ones(SHAPE, np.uint8)), table, tmp_path / "mask.seg.nrrd")
    session.add_mask(*read_segmentation(tmp_path / "mask.seg.nrrd"), "mask.seg.nrrd")
    session.fit(0.0)
    client.jobs[-1].done(fit_result(np.ones(SHAPE)))
    assert [row.values["ml"] for row in session.rows] == [1.5]
    assert len(said.errors) == 1 and "rename its segments to GTV" in said.errors[0]


@pytest.mark.parametrize("action", ["undo_result", "remove_image"])
def test_what_is_gone_is_not_measured_any_more(
    session: Session, client: FakeClient, said: Said, tmp_path: Path, action: str
) -> None:
    _, measuring = measured(session, client, tmp_path)
    getattr(session, action)(*([session.primary.identity] if action == "remove_image" else []))
    assert measuring.asked == ["cancel without force"]
    measuring.done(MEASURED)
    assert said.errors == [] and session.rows == []


def test_a_mask_of_more_classes_says_what_to_do(session: Session, tmp_path: Path) -> None:
    pair(session)
    write_volume(ct().with_array(np.full(SHAPE, 4, np.uint8)), tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match="holds 4 classes, but the list of structures only 1. Add the others first"):
        session.add_mask(*read_segmentation(tmp_path / "mask.nii.gz"), "mask.nii.gz")


def test_a_run_is_told_of_in_its_own_tab(session: Session, client: FakeClient) -> None:
    pair(session)
    scribble(session)
    session.fit(30.0)
    for loss in (0.5, 0.25):
        client.jobs[-1].tell(loss=loss)
    session.cancel()
    client.jobs[-1].fail("cancelled", "The job was stopped.")
    assert picture(session, Choices())["curve"] != ""
    session.set_mode("refer")
    assert picture(session, Choices())["curve"] == ""
    session.set_mode("fit")
    assert picture(session, Choices())["curve"] != ""


def test_a_mask_may_belong_to_an_image_that_is_not_used(session: Session, tmp_path: Path) -> None:
    session.add_image(mr(), "m")
    session.add_image(Volume(mr().array, np.eye(4)), "other")
    assert [image.name for image in session.used] == ["m"]
    write_volume(Volume(np.ones(SHAPE, np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    session.add_mask(*read_segmentation(tmp_path / "mask.nii.gz"), "mask.nii.gz")
    assert [session.image(identity).name for identity in session.masks] == ["other"]


def test_a_mask_of_another_grid_is_refused(session: Session, tmp_path: Path) -> None:
    pair(session)
    write_volume(Volume(np.ones(SHAPE, np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match="has the grid of none of the images"):
        session.add_mask(*read_segmentation(tmp_path / "mask.nii.gz"), "mask.nii.gz")


def test_reference_and_targets_get_a_result_each(session: Session, client: FakeClient) -> None:
    pair(session).set_mode("refer")
    session.drawing.draw(1, np.array([7]))
    session.refer("model", "all", 20.0)
    request = client.jobs[-1].request
    assert request.tune_seconds == 20.0
    assert isinstance(request, ReferRequest) and list(request.targets) == ["c"] and request.pieces == "all"
    labels = {"reference": mr().with_array(np.ones(SHAPE, np.uint8)), "c": ct().with_array(np.zeros(SHAPE, np.uint8))}
    milliliters = {"reference": {"GTV": 2.0}, "c": {"GTV": 0.0}}
    client.jobs[-1].done(ReferResult(labels, milliliters, {}, {}, None, "cpu", 1.0))
    assert [(row.image, row.values["ml"]) for row in session.rows] == [("m", 2.0), ("c", 0.0)]
    assert len(session.results) == 2
    assert [row["first"] for row in picture(session, Choices())["rows"]] == [True, True]


def test_where_no_model_was_named_the_structures_choose_one(session: Session, client: FakeClient) -> None:
    pair(session).set_mode("refer")
    session.drawing.draw(1, np.array([7]))
    session.look_for_models()
    found = tuple(Model(name, Path(name), True, 1, task="refer") for name in ("abdomen-mr", "abdomen-organs"))
    client.jobs[-1].done(ModelsResult(found, Path("models")))
    shown = picture(session, Choices())
    assert [model["value"] for model in shown["models"]] == ["", "abdomen-mr", "abdomen-organs"]
    assert shown["models"][0]["title"] == "Model by structures" and shown["model"] == ""
    session.refer(shown["model"])
    assert client.jobs[-1].request.model is None


def test_removed_images_take_their_strokes_and_results_along(session: Session, client: FakeClient) -> None:
    pair(session)
    scribble(session)
    session.fit(0.0)
    client.jobs[-1].done(fit_result(np.ones(SHAPE)))
    session.remove_image(session.primary.identity)
    assert [image.name for image in session.used] == ["m"]
    assert session.results == {} and session.rows == []
    assert session.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    with pytest.raises(InputError, match="not there any more"):
        session.image("vtkMRMLScalarVolumeNode99")


def test_a_list_of_models_that_cannot_be_had_says_why(session: Session, client: FakeClient) -> None:
    session.look_for_models()
    client.jobs[-1].fail("output", "The folder of models cannot be read.")
    assert picture(session, Choices())["model_hint"] == "The folder of models cannot be read."


def test_before_models_were_looked_for_nobody_says_that_there_are_none(session: Session, client: FakeClient) -> None:
    session.look_for_models()
    assert picture(session, Choices())["model_hint"] == "Looking for models…"
    client.jobs[-1].done(ModelsResult((), Path("models")))
    assert picture(session, Choices())["model_hint"].startswith("No model is installed")


def test_without_images_nothing_can_be_started(session: Session) -> None:
    with pytest.raises(InputError, match="Load an image first"):
        session.fit(1.0)
    shown = picture(session, Choices())
    assert not shown["can_start"] and shown["images"] == [] and shown["hint"] == ""
