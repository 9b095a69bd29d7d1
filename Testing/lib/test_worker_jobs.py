"""What the worker does for each kind of request, in this process."""

from __future__ import annotations

import errno
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_support import SHAPE, TABLE, affine, image_array, mask_array, scribble_array
from scipy import ndimage
from training_cohort import make_cohort, tiny_config

from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.errors import (
    Cancelled,
    CrossModalSegError,
    GeometryError,
    InputError,
    ModelError,
    OutputError,
    SessionError,
    TakenError,
)
from CrossModalSegLib.fitting.prior_training import prior_network
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import CARD_FILE, MODELS_VARIABLE, save_model
from CrossModalSegLib.inference.referring import ReferSession
from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.models.cmfnet import CmFNet
from CrossModalSegLib.models.crossmr import CrossMR, CrossMRConfig
from CrossModalSegLib.models.focalnet import FocalNetConfig
from CrossModalSegLib.models.vnet import VNet, VNetConfig
from CrossModalSegLib.progress import CancelToken, PausableToken
from CrossModalSegLib.volume import Volume, same_geometry
from CrossModalSegLib.worker import messages as m
from CrossModalSegLib.worker.context import Context, Reporter
from CrossModalSegLib.worker.jobs import fit as fitting
from CrossModalSegLib.worker.jobs import run_job
from CrossModalSegLib.worker.jobs import segment as segmenting
from CrossModalSegLib.worker.jobs.case import by_class
from CrossModalSegLib.worker.store import Store

CT = Volume(image_array(1), affine())
MR = Volume(image_array(2) + 200, affine())
SCRIBBLES = Volume(scribble_array(), affine())
MASK = Volume(mask_array(), affine())
SHIFTED = affine((-19.0, -21.0, 1.0))


class Surroundings(Context):
    """A context that keeps what it is told."""

    def __init__(self, store: Store | None = None) -> None:
        self.told: list[m.Progress] = []
        self.shown: list[m.Preview] = []
        token = PausableToken()
        super().__init__(Reporter(self.told.append, token), self.shown.append, token, CancelToken(), store or Store())


Surroundings.__setattr__ = object.__setattr__


def finishing(store: Store | None = None) -> Surroundings:
    """Ends a fit with its first answer."""
    surroundings = Surroundings(store)
    surroundings.finish.cancel()
    return surroundings


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny untrained models of each task: "prior", "plain" and "refer"."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = prior_network(base_channels=2)
    structure = LabelTable.from_names(["structure"])
    save_model(folder / "prior", CmFNet(config), ModelCard("prior", "cmfnet", to_dict(config), ("ct", "mr"), structure))
    config = VNetConfig(3, 1, base_channels=2)
    save_model(folder / "plain", VNet(config), ModelCard("plain", "vnet", to_dict(config), ("mr",), TABLE))
    config = CrossMRConfig(
        FocalNetConfig(embed_dim=8, depths=(1, 1, 1, 1), focal_levels=(2, 2, 2, 2)),
        image_size=48, channels=16, heads=2, feedforward=32, decoder_layers=1, encoder_layers=1, seed_queries=True,
    )  # fmt: skip
    card = ModelCard("refer", "crossmr", to_dict(config), ("image",), TABLE, slices=SlicePreprocessing(48))
    save_model(folder / "refer", CrossMR(config), card)
    return folder


# --- fit -------------------------------------------------------------------------------------------------------------


def fit_request(models: Path, **changes: object) -> m.FitRequest:
    request = m.FitRequest(
        {"ct": CT, "mr": MR},
        SCRIBBLES,
        TABLE,
        start=str(models / "prior"),
        seconds=0.1,
        preview_every=0.05,
        device="cpu",
    )
    return replace(request, **changes)


def test_each_class_has_its_own_probabilities():
    given = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 1, 2), np.float32)
    grid = Volume(np.zeros((1, 1, 2)), np.eye(4))
    found = by_class(given, grid, LabelTable.from_names(["a", "b"]))
    assert {name: volume.array.ravel().tolist() for name, volume in found.items()} == {"a": [1, 1], "b": [2, 2]}
    assert by_class(None, grid, TABLE) == {}


def test_a_fit_answers_on_the_first_images_grid_whatever_the_grid_of_the_other(models):
    surroundings = Surroundings()
    mr = Volume(np.pad(MR.array, 2, mode="edge"), SHIFTED)
    request = fit_request(models, images={"ct": CT, "mr": mr}, probabilities=True, uncertainty=True)
    result = run_job(request, surroundings)
    drawn = SCRIBBLES.array != UNLABELLED
    assert same_geometry(result.labels, CT)
    assert np.array_equal(result.labels.array[drawn], SCRIBBLES.array[drawn])
    assert result.milliliters == {
        label.name: pytest.approx((result.labels.array == label.value).sum() * 0.016) for label in TABLE.labels
    }
    assert list(result.probabilities) == ["GTV", "brainstem"]
    assert same_geometry(result.probabilities["GTV"], CT)
    assert same_geometry(result.uncertainty, CT)
    assert len(result.history["total"]) == len(result.history["step"]) >= 1
    assert result.answers[0].name == "first answer"
    assert (result.resumed, result.is_complete, result.device) == (False, True, "cpu")
    assert surroundings.shown[0].name == "first answer"
    assert same_geometry(surroundings.shown[0].labels, CT)
    assert surroundings.told[0].message == "preparing"


def test_scribbles_on_another_grid_lose_no_stroke(models):
    fine = affine()
    fine[:3, :3] /= 2
    scribbles = np.full(np.multiply(SHAPE, 2), UNLABELLED, np.uint8)
    scribbles[::2, ::2, ::2] = SCRIBBLES.array
    result = run_job(fit_request(models, scribbles=Volume(scribbles, fine)), finishing())
    drawn = SCRIBBLES.array != UNLABELLED
    assert np.array_equal(result.labels.array[drawn], SCRIBBLES.array[drawn])


def test_a_fit_goes_on_from_the_last_one_of_the_case(models):
    store = Store()
    request = fit_request(models, case="node 1")
    first = run_job(request, Surroundings(store))
    more = SCRIBBLES.array.copy()
    more[1, 17, 14:19] = 2
    second = run_job(replace(request, scribbles=SCRIBBLES.with_array(more)), finishing(store))
    assert (first.resumed, second.resumed) == (False, True)
    assert (second.is_complete, second.history) == (False, {})
    assert (second.labels.array[1, 17, 14:19] == 2).all()
    assert fitting._kept(request, Surroundings(store)) is not None
    others = LabelTable.from_names(["GTV", "chiasm"])
    for changed in ({"resume": False}, {"case": "node 2"}, {"labels": others}, {"images": {"mr": MR}}, {"case": ""}):
        assert fitting._kept(replace(request, **changed), Surroundings(store)) is None


def test_a_saved_fit_is_a_start_for_the_next_one(models, tmp_path):
    for method in ("cmfnet", "pce"):
        folder = tmp_path / method
        start = str(models / "prior") if method == "cmfnet" else None
        run_job(fit_request(models, method=method, start=start, save_model=folder), Surroundings())
        again = run_job(fit_request(models, method=method, start=str(folder)), finishing())
        assert again.answers[0].name == "first answer"
        with pytest.raises(OutputError, match="exists already"):
            run_job(fit_request(models, save_model=folder), Surroundings())


def test_a_fit_without_previews(models):
    surroundings = finishing()
    run_job(fit_request(models, preview_every=0), surroundings)
    assert surroundings.shown == []


def test_a_cancelled_fit_leaves_nothing_behind(models, tmp_path):
    surroundings = Surroundings()
    surroundings.cancel.cancel()
    with pytest.raises(Cancelled):
        run_job(fit_request(models, case="a", save_model=tmp_path / "model"), surroundings)
    assert surroundings.store.fits.get("a") is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_in_a_sentence(models, tmp_path, monkeypatch):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr("CrossModalSegLib.inference.model_folder.save_file", full)
    with pytest.raises(OutputError, match="No space is left to write"):
        run_job(fit_request(models, save_model=tmp_path / "model"), finishing())


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"images": {}}, InputError, "needs an image"),
        ({"images": {"ct": CT, "mr": Volume(MR.array, affine((900.0, 0.0, 0.0)))}}, GeometryError, "Register them"),
        ({"scribbles": SCRIBBLES.with_array(np.full(SHAPE, 255, np.uint8))}, CrossModalSegError, "scribbles are empty"),
        ({"device": "tpu"}, InputError, "no device 'tpu'"),
        ({"start": "nowhere"}, ModelError, "no model folder 'nowhere'"),
    ],
)
def test_what_a_fit_cannot_use(models, changes, kind, sentence):
    with pytest.raises(kind, match=sentence):
        run_job(fit_request(models, **changes), Surroundings())


def test_a_cohort_trains_a_model_and_a_stopped_training_goes_on(tmp_path):
    make_cohort(tmp_path, 2)
    settings = {**to_dict(tiny_config()), "steps": 99, "validation_share": 0.0}
    request = m.TrainRequest(tmp_path / "cohort.json", tmp_path / "model", "fast", 3, settings=settings, device="cpu")
    stopped = Surroundings()
    tell = stopped.told.append
    stopped.progress._send = lambda event: (tell(event), stopped.cancel.cancel() if "loss" in event.values else None)
    with pytest.raises(Cancelled):
        run_job(request, stopped)
    assert not request.out.exists()
    result = run_job(replace(request, resume=True), Surroundings())
    assert (result.model.folder, result.model.task, result.model.modalities) == (request.out, "segment", ("ct", "mr"))
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.startswith("model")) == ["model"]


# --- segment ---------------------------------------------------------------------------------------------------------


def segment_request(models: Path, **changes: object) -> m.SegmentRequest:
    return replace(m.SegmentRequest({"t1": MR}, str(models / "plain"), device="cpu"), **changes)


def test_a_model_segments_on_the_grid_of_the_image(models):
    result = run_job(segment_request(models, probabilities=True, uncertainty=True), Surroundings())
    assert same_geometry(result.labels, MR)
    assert result.table.names == TABLE.names
    assert set(result.probabilities) == set(result.milliliters) == {"GTV", "brainstem"}
    assert result.uncertainty.array.dtype == np.float32


def test_a_model_is_loaded_once_until_its_files_change(models, monkeypatch):
    loads, load = [], segmenting.load_model
    monkeypatch.setattr(segmenting, "load_model", lambda *each: loads.append(each) or load(*each))
    store = Store()
    for _ in range(2):
        run_job(segment_request(models), Surroundings(store))
    assert len(loads) == 1
    card = models / "plain" / CARD_FILE
    card.write_text(card.read_text() + " ")
    run_job(segment_request(models), Surroundings(store))
    assert len(loads) == 2


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"images": {}}, InputError, "needs an image"),
        ({"model": "prior"}, ModelError, "needs scribbles beside the images"),
        ({"model": "refer"}, ModelError, "needs a scribbled reference"),
        ({"images": {"ct": CT, "t1": MR}}, ModelError, "needs the images mr"),
    ],
)
def test_what_cannot_be_segmented(models, changes, kind, sentence):
    changes = {**changes, "model": str(models / changes.get("model", "plain"))}
    with pytest.raises(kind, match=sentence):
        run_job(segment_request(models, **changes), Surroundings())


def test_where_the_gpu_is_too_small_the_cpu_segments(models, monkeypatch, caplog):
    def warm(name: str, device: torch.device, store: Store) -> object:
        if device.type != "cpu":
            raise torch.OutOfMemoryError("MPS backend out of memory")
        return real(name, device, store)

    real = segmenting.warm_model
    monkeypatch.setattr(segmenting, "choose_device", lambda name: torch.device("mps"))
    monkeypatch.setattr(segmenting, "warm_model", warm)
    assert run_job(segment_request(models), Surroundings()).device == "cpu"
    assert "computed again on the CPU" in caplog.text


# --- refer -----------------------------------------------------------------------------------------------------------


def refer_request(models: Path, **changes: object) -> m.ReferRequest:
    targets = {"Jane Doe T2": Volume(MR.array[:, ::-1], SHIFTED), "DWI": CT}
    request = m.ReferRequest(MR, targets, SCRIBBLES, TABLE, "node 3", str(models / "refer"), device="cpu")
    return replace(request, **changes)


def test_targets_are_segmented_each_on_its_own_grid(models):
    surroundings = Surroundings()
    request = refer_request(models, probabilities=True)
    result = run_job(request, surroundings)
    volumes = {"reference": MR, **request.targets}
    for found in (result.labels, result.milliliters, result.probabilities, result.reports):
        assert list(found) == list(volumes)
    for name, volume in volumes.items():
        assert same_geometry(result.labels[name], volume)
        assert set(result.probabilities[name]) == {"GTV", "brainstem"}
        assert same_geometry(result.probabilities[name]["GTV"], volume)
        assert result.reports[name]["matching"] == "position"
    assert result.tuning is None
    assert not any("Jane" in each.message for each in surroundings.told)


def test_pieces_are_kept_as_asked_for(models, tmp_path):
    model = Path(shutil.copytree(models / "refer", tmp_path / "everywhere"))
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    (model / "model.json").write_text(json.dumps(card | {"least_presence": 0.0}), encoding="utf-8")
    store, counts = Store(), {}
    for request in (
        refer_request(models, model=str(model), pieces="all"),
        m.ReferStrokesRequest("node 3", SCRIBBLES, TABLE, pieces="largest"),
    ):
        found = run_job(request, Surroundings(store)).labels["DWI"].array
        pieces = [ndimage.label(found == value, structure=np.ones((3, 3, 3)))[1] for value in (1, 2)]
        counts[request.pieces] = max(pieces)
    assert counts["all"] > 1 and counts["largest"] == 1


def test_new_strokes_encode_nothing(models):
    store = Store()
    run_job(refer_request(models), Surroundings(store))
    session = store.sessions.get("node 3").session
    encoded = session.encoded_slices
    strokes = SCRIBBLES.array.copy()
    strokes[1, 17, 14:19] = 2
    result = run_job(m.ReferStrokesRequest("node 3", MR.with_array(strokes), TABLE), Surroundings(store))
    assert (result.labels["reference"].array[1, 17, 14:19] == 2).all()
    assert list(result.labels) == ["reference", "Jane Doe T2", "DWI"]
    assert session.encoded_slices == encoded
    run_job(refer_request(models, targets={"DWI": CT, "new": CT}), Surroundings(store))
    assert session.encoded_slices == encoded
    assert set(store.sessions.get("node 3").session.targets) == {"target 1", "target 2"}


def test_a_session_that_is_gone_or_was_cut_short_has_to_be_sent_again(models):
    store = Store()
    strokes = m.ReferStrokesRequest("node 3", SCRIBBLES, TABLE)
    with pytest.raises(SessionError, match="send them again"):
        run_job(strokes, Surroundings(store))
    run_job(refer_request(models), Surroundings(store))
    stopped = Surroundings(store)
    tell = stopped.told.append
    stopped.progress._send = lambda event: (tell(event), stopped.cancel.cancel() if event.total else None)
    new = {"new": Volume(CT.array + 1, SHIFTED)}
    with pytest.raises(Cancelled):
        run_job(refer_request(models, targets=new), stopped)
    with pytest.raises(SessionError):
        run_job(strokes, Surroundings(store))
    assert list(run_job(refer_request(models, targets=new), Surroundings(store)).labels) == ["reference", "new"]
    run_job(strokes, Surroundings(store))


def test_where_new_strokes_are_too_much_for_the_device_all_has_to_be_sent_again(models, monkeypatch):
    def refer(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    store, strokes = Store(), m.ReferStrokesRequest("node 3", SCRIBBLES, TABLE)
    run_job(refer_request(models), Surroundings(store))
    monkeypatch.setattr(store.sessions.get("node 3").session, "refer", refer)
    with pytest.raises(SessionError, match="The device cpu cannot give a new answer"):
        run_job(strokes, Surroundings(store))
    assert store.sessions.get("node 3") is None
    run_job(refer_request(models), Surroundings(store))
    run_job(strokes, Surroundings(store))


def test_a_model_that_was_replaced_or_deleted_answers_no_more_strokes(models, tmp_path):
    model, store = Path(shutil.copytree(models / "refer", tmp_path / "organs")), Store()
    strokes = m.ReferStrokesRequest("node 3", SCRIBBLES, TABLE)
    run_job(refer_request(models, model=str(model)), Surroundings(store))
    run_job(strokes, Surroundings(store))
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    (model / "model.json").write_text(json.dumps(card | {"least_presence": 0.25}), encoding="utf-8")
    with pytest.raises(SessionError, match="Another model has this name now"):
        run_job(strokes, Surroundings(store))
    run_job(refer_request(models, model=str(model)), Surroundings(store))
    run_job(strokes, Surroundings(store))
    shutil.rmtree(model)
    with pytest.raises(ModelError, match="organs"):
        run_job(strokes, Surroundings(store))


def test_other_organs_may_take_another_of_the_models_that_ship(models, caplog):
    store = Store()

    def strokes(*organs: str) -> m.ReferStrokesRequest:
        return m.ReferStrokesRequest("node 3", SCRIBBLES, LabelTable.from_names(organs))

    run_job(refer_request(models, model=None), Surroundings(store))
    assert store.sessions.get("node 3").model == "abdomen-organs"
    told = "No model was named: abdomen-organs answers, chosen by the names of the organs."
    assert caplog.messages.count(told) == 1
    run_job(strokes("pancreas", "liver"), Surroundings(store))
    with pytest.raises(SessionError, match="Another model may be the one for these organs"):
        run_job(strokes("spleen", "liver"), Surroundings(store))
    run_job(refer_request(models, model="abdomen-organs"), Surroundings(store))
    run_job(strokes("spleen", "liver"), Surroundings(store))  # as it was named
    assert caplog.messages.count(told) == 1


def test_strokes_on_organs_without_names_may_choose_the_other_model(models, caplog, monkeypatch):
    asked = []

    def seen(session, image, scribbles, table, _cancel=None):
        asked.append(image is MR and scribbles is SCRIBBLES)
        return dict.fromkeys(table.names, 0.1)

    monkeypatch.setattr(ReferSession, "seen", seen)
    table, store = LabelTable.from_names(["1", "Segment_2"]), Store()
    run_job(refer_request(models, model=None, labels=table), Surroundings(store))
    kept = store.sessions.get("node 3")
    assert kept.model == "abdomen-organs" and asked == [True]
    assert any("abdomen-organs answers, as abdomen-mr does not see" in each for each in caplog.messages)
    encoded = kept.session.encoded_slices
    run_job(m.ReferStrokesRequest("node 3", SCRIBBLES, table), Surroundings(store))
    run_job(refer_request(models, model=None, labels=table), Surroundings(store))
    assert store.sessions.get("node 3") is kept and kept.session.encoded_slices == encoded
    with pytest.raises(SessionError, match="Another model may be the one for these organs"):
        run_job(m.ReferStrokesRequest("node 3", SCRIBBLES, LabelTable.from_names(["1", "aorta"])), Surroundings(store))


def test_another_organ_without_a_name_has_the_choice_made_again(models, monkeypatch):
    monkeypatch.setattr(ReferSession, "seen", lambda *_: {"spleen": 0.9, "Segment_2": 0.0})
    one, two = LabelTable.from_names(["spleen"]), LabelTable.from_names(["spleen", "Segment_2"])
    first = SCRIBBLES.with_array(np.where(SCRIBBLES.array == 2, 255, SCRIBBLES.array).astype(np.uint8))
    store = Store()
    run_job(refer_request(models, model=None, labels=one, scribbles=first), Surroundings(store))
    run_job(m.ReferStrokesRequest("node 3", first, one), Surroundings(store))
    assert store.sessions.get("node 3").model == "abdomen-mr"
    with pytest.raises(SessionError, match="Another model may be the one for these organs"):
        run_job(m.ReferStrokesRequest("node 3", SCRIBBLES, two), Surroundings(store))
    run_job(refer_request(models, model=None, labels=two), Surroundings(store))
    assert store.sessions.get("node 3").model == "abdomen-organs"
    run_job(m.ReferStrokesRequest("node 3", SCRIBBLES, two), Surroundings(store))


def test_errors_call_targets_as_the_client_does(models):
    flat = MR.with_array(np.zeros(SHAPE, np.float32))
    with pytest.raises(InputError, match="'DWI'|DWI"):
        run_job(refer_request(models, targets={"a": CT, "DWI": flat}), Surroundings())
    with pytest.raises(InputError, match="the name of the reference itself"):
        run_job(refer_request(models, targets={"reference": CT}), Surroundings())
    with pytest.raises(ModelError, match="cannot compare"):
        run_job(refer_request(models, model=str(models / "plain")), Surroundings())


# --- the others ------------------------------------------------------------------------------------------------------


def test_registration_gives_the_matrix_for_a_transform_node_above_the_moving_volume():
    rng = np.random.default_rng(0)
    k, j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 32, 32)), indexing="ij")
    blob = 100.0 * (k**2 + j**2 + i**2 < 0.5) + 60.0 * ((k - 0.2) ** 2 + (j + 0.2) ** 2 + (i - 0.3) ** 2 < 0.05)
    image = (blob + rng.normal(0, 3, blob.shape)).astype(np.float32)
    fixed = Volume(image, np.diag([3.0, 3.0, 4.0, 1.0]))
    away = np.eye(4)
    away[:3, 3] = (6.0, -4.0, 5.0)
    surroundings = Surroundings()
    result = run_job(m.RegisterRequest(fixed, Volume(image, away @ fixed.affine)), surroundings)
    np.testing.assert_allclose(np.array(result.matrix) @ away, np.eye(4), atol=1.0)
    assert np.linalg.norm((np.array(result.matrix) @ away)[:3, 3]) < 1.5
    assert result.metric > result.metric_before
    assert surroundings.told[-1].values["metric"] > 0


def test_proposed_background_is_new_and_far_from_the_strokes():
    body = np.full(SHAPE, 100.0, np.float32)
    body[:, :, :2] = 0.0
    image = CT.with_array(body)
    background = run_job(m.AutoBackgroundRequest(SCRIBBLES, image, 4.0, 0.05), Surroundings()).background
    assert not background.array[:, :, :2].any()
    assert background.array.any()
    assert not (background.array.astype(bool) & (SCRIBBLES.array != UNLABELLED)).any()
    on_other_grid = Volume(np.pad(body, 1, mode="edge"), SHIFTED)
    other = run_job(m.AutoBackgroundRequest(SCRIBBLES, on_other_grid, 4.0, 0.05), Surroundings()).background
    assert same_geometry(other, SCRIBBLES)
    with pytest.raises(InputError, match="No background is left at 90 mm"):
        run_job(m.AutoBackgroundRequest(SCRIBBLES, None, 90.0), Surroundings())
    empty = SCRIBBLES.with_array(np.full(SHAPE, UNLABELLED, np.uint8))
    with pytest.raises(InputError, match="Scribble at least one class"):
        run_job(m.AutoBackgroundRequest(empty), Surroundings())


def test_measures_are_those_of_the_library():
    surroundings = Surroundings()
    report = run_job(m.EvaluateRequest(MASK, MASK, TABLE, (1.5,)), surroundings).report
    assert (surroundings.told[-1].done, surroundings.told[-1].total) == (8, 8)
    assert report["mean"]["dsc"] == 1.0
    assert report["mean"]["nsd@1.5mm"] == 1.0
    assert [each["name"] for each in report["labels"]] == ["GTV", "brainstem"]
    with pytest.raises(GeometryError, match="different grids"):
        run_job(m.EvaluateRequest(MASK, Volume(MASK.array, SHIFTED), TABLE), Surroundings())


def test_the_doctor_names_what_there_is_to_compute_on():
    result = run_job(m.DoctorRequest(), Surroundings())
    assert {"versions", "devices"} <= {each.topic for each in result.findings}
    assert [each.name for each in result.devices if each.is_default] == [result.devices[0].name]
    assert result.devices[-1].name == "cpu"
    assert 0 < result.devices[-1].free_bytes <= result.devices[-1].total_bytes


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of installed models."""
    folder = tmp_path / "installed"
    monkeypatch.setenv(MODELS_VARIABLE, str(folder))
    return folder


def names(result: m.ModelsResult) -> list[str]:
    return [each.name for each in result.models]


def test_a_model_is_installed_written_out_and_deleted(models, installed, tmp_path):
    ask: Callable[[m.JobRequest], m.Result] = lambda request: run_job(request, Surroundings())  # noqa: E731
    assert ask(m.ModelsRequest()).folder == installed
    info = ask(m.ImportModelRequest(models / "plain", "my-model"))
    assert (info.model.name, info.model.task, info.model.modalities) == ("my-model", "segment", ("mr",))
    assert info.parameters > 0
    assert not info.model.is_shipped
    with pytest.raises(TakenError, match="'my-model' is installed already. Replace it, or"):
        ask(m.ImportModelRequest(models / "plain", "my-model"))
    assert ask(m.ImportModelRequest(models / "plain", "my-model", overwrite=True)).model.name == "my-model"
    assert ask(m.SegmentRequest({"mr": MR}, "my-model", device="cpu")).table.names == TABLE.names

    out = tmp_path / "model.zip"
    assert ask(m.ExportModelRequest("my-model", out)).out == out
    assert sorted(zipfile.ZipFile(out).namelist()) == ["my-model/model.json", "my-model/model.safetensors"]
    with pytest.raises(OutputError, match="exists"):
        ask(m.ExportModelRequest("my-model", out))
    ask(m.ExportModelRequest("my-model", out, overwrite=True))
    with pytest.raises(OutputError, match="to a .zip file"):
        ask(m.ExportModelRequest("my-model", tmp_path / "model.pt"))
    assert ask(m.ImportModelRequest(out, "again")).model.labels == info.model.labels

    assert {"again", "my-model"} <= set(names(ask(m.ModelsRequest())))
    assert "my-model" not in names(ask(m.DeleteModelRequest("my-model")))
    assert [each.name for each in installed.iterdir()] == ["again"]
    with pytest.raises(ModelError, match="no installed model 'my-model'"):
        ask(m.DeleteModelRequest("my-model"))


def test_a_model_becomes_a_bundle(models, tmp_path):
    result = run_job(m.ExportModelRequest(str(models / "plain"), tmp_path / "bundle", "bundle"), Surroundings())
    assert (result.out / "configs" / "inference.json").is_file()


def test_what_ships_stays_and_what_is_damaged_is_named(installed):
    damaged = installed / "damaged"
    damaged.mkdir(parents=True)
    (damaged / CARD_FILE).write_text("{")
    listed = {each.name: each for each in run_job(m.ModelsRequest(), Surroundings()).models}
    assert "not valid JSON" in listed["damaged"].problem
    assert listed["damaged"].task is None
    shipped = listed["scribble-prior"]
    assert (shipped.is_shipped, shipped.task, shipped.problem) == (True, "fit", None)
    assert shipped.licence
    assert shipped.bytes > 10_000
    with pytest.raises(ModelError, match="comes with the library"):
        run_job(m.DeleteModelRequest("scribble-prior"), Surroundings())


@pytest.mark.parametrize("name", ["../installed", "..", "", "/"])
def test_only_names_of_models_are_deleted(installed, name):
    installed.mkdir()
    with pytest.raises(ModelError, match="no installed model"):
        run_job(m.DeleteModelRequest(name), Surroundings())
    assert installed.exists()
