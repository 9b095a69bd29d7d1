"""Registration, measured on known displacements of simulated heads."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from CrossModalSegLib.errors import Cancelled, GeometryError, InputError
from CrossModalSegLib.io import read_volume
from CrossModalSegLib.progress import CancelToken, SilentProgress
from CrossModalSegLib.registration import alignment, register, write_transform
from CrossModalSegLib.registration.contest import Fitted, merit, winner
from CrossModalSegLib.registration.doubts import doubt
from CrossModalSegLib.registration.images import prepared
from CrossModalSegLib.registration.resampled import resampled
from CrossModalSegLib.registration.run import Run
from CrossModalSegLib.simulation import SimulatedCase, SimulationOptions, simulate_case
from CrossModalSegLib.volume import Volume, same_geometry, volume_from_itk, volume_to_itk

TARGETS = np.random.default_rng(0).uniform(-40, 40, (200, 3))


@pytest.fixture(scope="module")
def head() -> SimulatedCase:
    return simulate_case("head", 5, SimulationOptions(shape=(26, 64, 64), spacing=(4.2, 3.2, 3.2)))


def moved(volume: Volume, transform: sitk.Transform, affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    """The volume seen from a grid whose points `transform` takes to the volume's."""
    grid = volume_to_itk(Volume(np.zeros(shape, dtype=np.uint8), affine))
    return volume_from_itk(sitk.Resample(volume_to_itk(volume), grid, transform, sitk.sitkLinear, 0.0))


def oblique_grid(shape: tuple[int, int, int], spacing_ijk: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.05, -0.1).GetMatrix(), (3, 3))
    affine[:3, :3] = turn @ np.diag(spacing_ijk)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    return affine


def target_error(found: sitk.Transform, true: sitk.Transform) -> float:
    """Mean distance between where two transforms take the targets, mm."""
    pairs = ((found.TransformPoint(p), true.TransformPoint(p)) for p in TARGETS.tolist())
    return float(np.mean([np.linalg.norm(np.subtract(a, b)) for a, b in pairs]))


def rigid(angles: tuple[float, float, float], shift: tuple[float, float, float]) -> sitk.Euler3DTransform:
    return sitk.Euler3DTransform((0.0, 0.0, 0.0), *angles, shift)


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_rotation_and_shift_are_recovered_on_an_oblique_anisotropic_grid(head: SimulatedCase, kind: str) -> None:
    true = rigid((0.08, -0.06, 0.12), (7.0, -5.0, 4.0))
    shape = (24, 72, 72)
    mr = moved(head.mr, true, oblique_grid(shape, (2.8, 2.8, 4.6)), shape)
    result = register(head.ct, mr, kind, seed=1)
    before = target_error(sitk.Transform(3, sitk.sitkIdentity), true.GetInverse())
    assert before > 8
    assert target_error(result.transform, true.GetInverse()) < 1.5
    assert result.metric > result.metric_before
    assert same_geometry(result.resampled, head.ct)
    assert result.resampled.array.dtype == np.int16


def by_header(volume: Volume, transform: sitk.Euler3DTransform) -> Volume:
    """The volume whose voxels lie where `transform` takes them."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return Volume(volume.array, matrix @ volume.affine)


def slab(volume: Volume, first: int, count: int) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * first
    return Volume(volume.array[first : first + count], affine)


def test_a_slab_of_a_quarter_finds_its_place(head: SimulatedCase) -> None:
    true = rigid((-0.09, 0.09, 0.09), (10.0, 20.0, 30.0))
    found = register(slab(head.ct, 3, 6), by_header(head.mr, true))
    assert target_error(found.transform, true) < 3
    true = rigid((-0.09, 0.09, 0.09), (10.0, -20.0, 35.0))
    found = register(head.ct, by_header(slab(head.mr, 13, 6), true))
    assert target_error(found.transform, true) < 3
    assert found.doubt is None


def test_a_real_head_that_is_turned_by_40_degrees_finds_its_place(real_data: Path) -> None:
    ct, mr = (read_volume(real_data / "harvard_ctmr" / f"case2_{name}.nii.gz") for name in ("ct", "mr"))
    aligned = register(ct, mr)
    turn = sitk.Euler3DTransform((128.0, 128.0, 45.0), 0.0, 0.0, -0.7, (5.0, -8.0, 6.0))
    turned = register(ct, by_header(mr, turn))
    points = np.random.default_rng(0).uniform((60, 60, 10), (190, 190, 80), (100, 3)).tolist()
    away = [turn.TransformPoint(aligned.transform.TransformPoint(p)) for p in points]
    assert np.linalg.norm(np.subtract([turned.transform.TransformPoint(p) for p in points], away), axis=1).mean() < 4
    assert aligned.doubt is turned.doubt is None


def test_four_real_slices_that_are_misplaced_are_doubted(real_data: Path) -> None:
    ct, mr = (read_volume(real_data / "harvard_ctmr" / f"case2_{name}.nii.gz") for name in ("ct", "mr"))
    turn = sitk.Euler3DTransform((127.5, 127.5, 45.0), *np.radians((6, -5, 8)), (10.0, -8.0, 5.0))
    found = register(ct, by_header(slab(mr, 7, 4), turn))
    points = np.random.default_rng(0).uniform((60, 60, 35), (190, 190, 50), (100, 3)).tolist()
    away = np.subtract(*([t.TransformPoint(p) for p in points] for t in (found.transform, turn)))
    assert np.linalg.norm(away, axis=1).mean() < 10 or found.doubt is not None


def test_real_thick_slices_that_lie_well_stay(real_data: Path) -> None:
    fixed, moving = (read_volume(real_data / "chaos_mr" / f"chaos01_{name}.nii.gz") for name in ("T1", "T2"))
    found = register(fixed, moving, initial="identity")
    points = np.random.default_rng(0).uniform(-1, 1, (100, 3)) * (120, 100, 70)
    middle = fixed.affine[:3, :3] @ ((np.array(fixed.shape[::-1]) - 1) / 2) + fixed.affine[:3, 3]
    points = (points + middle).tolist()
    away = np.subtract([found.transform.TransformPoint(p) for p in points], points)
    assert np.linalg.norm(away, axis=1).mean() < 4
    assert found.metric > found.metric_before


def test_where_a_result_may_be_wrong_a_sentence_tells(head: SimulatedCase, caplog: pytest.LogCaptureFixture) -> None:
    assert register(head.ct, head.mr).doubt is None
    assert not caplog.messages
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=head.mr.shape), 3)
    unrelated = register(head.ct, head.mr.with_array(noise))
    assert "the images fit about as well in another place" in unrelated.doubt
    assert caplog.messages == [unrelated.doubt]
    run = Run(prepared(head.ct, "fixed"), prepared(head.mr, "moving"), 0, None, SilentProgress(), None)
    little = doubt(run, [], rigid((0.0, 0.0, 0.0), (0.0, 0.0, 75.0)))
    assert re.search("only (2|3).% of the smaller image lies on the other one. Look", little)
    here, there = rigid((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), rigid((0.0, 0.0, 0.0), (0.0, 0.0, 40.0))
    found = merit(run, here)
    assert "in another place, 40 mm away" in doubt(run, [Fitted("search", there, 0.95 * found)], here)
    assert doubt(run, [Fitted("search", there, 0.82 * found), Fitted("moments", here, found)], here) is None


def test_the_files_positions_win_where_another_place_is_hardly_better(head: SimulatedCase) -> None:
    run = Run(prepared(head.ct, "fixed"), prepared(head.mr, "moving"), 0, None, SilentProgress(), None)
    here, there = (rigid((0.0, 0.0, 0.0), (0.0, 0.0, z)) for z in (0.0, 40.0))
    places = [Fitted("search", there, 1.0), Fitted("identity", here, 0.96)]
    assert winner(run, places) is places[1]
    assert winner(run, [places[0], Fitted("identity", here, 0.9)]) is places[0]
    assert winner(run, [places[0], Fitted("identity", there, 0.96)]) is places[0]


def test_steps_that_lose_the_overlap_are_not_taken(head: SimulatedCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "execute", lambda *_: rigid((0.0, 0.0, 0.0), (0.0, 0.0, 90.0)))
    assert target_error(register(head.ct, head.mr).transform, sitk.Transform(3, sitk.sitkIdentity)) < 5


def test_b_spline_reduces_the_error_of_a_smooth_warp(head: SimulatedCase) -> None:
    warp = sitk.BSplineTransformInitializer(volume_to_itk(head.mr), [4, 4, 3], 3)
    warp.SetParameters((5.0 * np.random.default_rng(2).normal(size=len(warp.GetParameters()))).tolist())
    mr = moved(head.mr, warp, head.mr.affine, head.mr.shape)
    errors = {}
    for kind in ("rigid", "bspline"):
        found = register(head.ct, mr, kind).transform
        there = [warp.TransformPoint(found.TransformPoint(p)) for p in TARGETS.tolist()]
        errors[kind] = np.mean(np.linalg.norm(np.array(there) - TARGETS, axis=1))
    assert errors["bspline"] < 0.8 * errors["rigid"]


def test_whole_numbers_are_rounded_not_cut(head: SimulatedCase) -> None:
    found = register(head.ct, head.mr, initial=rigid((0.0, 0.0, 0.02), (0.6, 0.7, 0.8)))
    exact = sitk.Cast(volume_to_itk(head.mr), sitk.sitkFloat64)
    exact = sitk.Resample(exact, volume_to_itk(head.ct), found.transform, sitk.sitkLinear, float(head.mr.array.min()))
    assert found.resampled.array.dtype == head.mr.array.dtype
    assert np.abs(found.resampled.array - sitk.GetArrayFromImage(exact)).max() <= 0.5


def test_beyond_the_moving_image_is_its_minimum_and_large_numbers_are_exact() -> None:
    moving = Volume(np.full((2, 2, 2), 2**24 + 1, np.int32), np.eye(4))
    moving.array[0, 0, 0] = -7
    found = resampled(moving, Volume(np.zeros((2, 2, 4)), np.eye(4)), sitk.Transform(3, sitk.sitkIdentity))
    assert found.array[1, 1].tolist() == [2**24 + 1, 2**24 + 1, -7, -7]


def test_the_result_is_on_the_grid_of_a_tilted_gantry() -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.5
    fixed = Volume(np.zeros((3, 6, 4)), affine)
    ramp = Volume(np.broadcast_to(np.arange(12.0)[:, None], (12, 12, 4)), np.eye(4))
    found = resampled(ramp, fixed, sitk.Transform(3, sitk.sitkIdentity))
    assert same_geometry(found, fixed)
    np.testing.assert_allclose(found.array[:, 2, 1], [2.0, 2.5, 3.0])  # the third row is half a mm further in each


def test_images_stored_in_another_order_lie_on_each_other() -> None:
    image = Volume(np.random.default_rng(0).random((6, 9, 14)).astype(np.float32), np.diag([1.0, 2.0, 3.0, 1.0]))
    turned = Volume(image.array.transpose(1, 0, 2), image.affine[:, [0, 2, 1, 3]])
    assert alignment(image, turned).score == pytest.approx(alignment(image, image).score) == pytest.approx(2.0)


def test_same_seed_same_transform(head: SimulatedCase) -> None:
    first, second = (register(head.ct, head.mr, seed=3).transform.GetParameters() for _ in range(2))
    np.testing.assert_allclose(first, second, atol=1e-9)
    assert target_error(register(head.ct, head.mr, seed=4).transform, sitk.Transform(3, sitk.sitkIdentity)) < 1.0


def test_given_transform_is_refined(head: SimulatedCase) -> None:
    true = rigid((0.0, 0.0, 0.3), (60.0, 0.0, 0.0))
    affine = head.mr.affine.copy()
    affine[:3, 3] -= (60.0, 0.0, 0.0)
    mr = moved(head.mr, true, affine, head.mr.shape)
    start = rigid((0.0, 0.0, -0.25), (-57.0, 14.0, 0.0))
    result = register(head.ct, mr, initial=start)
    assert result.start == "given"
    assert target_error(result.transform, true.GetInverse()) < 1.5 < target_error(start, true.GetInverse())


def test_volumes_apart_are_refused_and_can_be_centred(head: SimulatedCase) -> None:
    affine = head.mr.affine.copy()
    affine[:3, 3] += (0.0, 0.0, 900.0)
    far = Volume(head.mr.array, affine)
    with pytest.raises(GeometryError, match="middles are 900 mm apart.*start from 'geometry'"):
        register(head.ct, far)
    found = register(head.ct, far, initial="geometry").transform
    assert target_error(found, rigid((0, 0, 0), (0.0, 0.0, 900.0))) < 1.5
    assert alignment(head.ct, far).state == "apart"


def test_alignment_sees_a_shift(head: SimulatedCase) -> None:
    affine = head.mr.affine.copy()
    affine[:3, 3] += (9.0, 6.0, 0.0)
    good, bad = alignment(head.ct, head.mr), alignment(head.ct, Volume(head.mr.array, affine))
    assert (good.state, bad.state) == ("same grid", "same patient space")
    assert 1 < bad.score < good.score < 2
    flat = alignment(head.ct, head.mr.with_array(np.zeros(head.mr.shape)))
    assert np.isnan(flat.score)


def test_filled_corners_do_not_pull(head: SimulatedCase) -> None:
    true = rigid((0.08, -0.06, 0.12), (7.0, -5.0, 4.0))
    shape = (30, 72, 72)
    mr = moved(head.mr, true, oblique_grid(shape, (2.8, 2.8, 4.6)), shape)
    assert (mr.array[[0, -1]] == 0).mean() > 0.2
    assert target_error(register(head.ct, mr).transform, true.GetInverse()) < 1.5


@pytest.mark.parametrize("suffix", [".tfm", ".h5"])
def test_transform_survives_writing(tmp_path: Path, suffix: str) -> None:
    true = rigid((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    write_transform(true, tmp_path / f"a b{suffix}")
    again = sitk.ReadTransform(str(tmp_path / f"a b{suffix}"))
    assert target_error(again, true) < 1e-6
    with pytest.raises(InputError, match="A transform is written to"):
        write_transform(true, tmp_path / "x.png")


def test_an_image_that_is_almost_empty_is_no_other_type(head: SimulatedCase) -> None:
    sparse = np.where(np.arange(head.mr.array.size).reshape(head.mr.shape) % 400 == 0, head.mr.array, 0)
    result = register(head.ct, head.mr.with_array(sparse), "rigid", initial="geometry")
    assert same_geometry(result.resampled, head.ct)


def test_cancel_and_progress(head: SimulatedCase) -> None:
    token, seen = CancelToken(), []

    def progress(done: int, total: int, message: str, values: dict[str, float]) -> None:
        seen.append((done <= total, message, values["metric"]))
        token.cancel()

    with pytest.raises(Cancelled):
        register(head.ct, head.mr, progress=progress, cancel=token)
    assert len(seen) <= 2
    assert seen[0][0]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill command")
def test_ctrl_c_within_the_optimiser_keeps_its_type(head: SimulatedCase, capfd: pytest.CaptureFixture[str]) -> None:
    handler = signal.getsignal(signal.SIGINT)
    interrupters = []

    def progress(*_: object) -> None:
        if not interrupters:  # from outside, so that it comes while ITK computes
            interrupters.append(subprocess.Popen(["sh", "-c", f"sleep 0.03; kill -INT {os.getpid()}"]))

    with pytest.raises(KeyboardInterrupt):
        register(head.ct, head.mr, "bspline", progress=progress)
    interrupters[0].wait()
    assert "Traceback" not in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler


def test_bad_inputs_are_refused(head: SimulatedCase) -> None:
    with pytest.raises(InputError, match="kind of registration must be one of"):
        register(head.ct, head.mr, "elastic")
    with pytest.raises(InputError, match="The start must be one of"):
        register(head.ct, head.mr, initial="there")
    with pytest.raises(InputError, match="starts from a rigid or affine transform, got a BSplineTransform"):
        register(head.ct, head.mr, initial=sitk.BSplineTransform(3))
    with pytest.raises(InputError, match="same value everywhere"):
        register(head.ct, head.mr.with_array(np.ones(head.mr.shape)))
    with pytest.raises(InputError, match="at least 4 voxels"):
        register(head.ct, Volume(head.mr.array[:2], head.mr.affine))
    broken = head.mr.array.astype(np.float32)
    broken[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        register(head.ct, head.mr.with_array(broken))
