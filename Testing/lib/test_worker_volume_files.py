from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.worker.messages import FitRequest, ModelsRequest, ReferResult, VolumeFile
from CrossModalSegLib.worker.volume_files import read_volumes, write_volumes

EYE = tuple(tuple(row) for row in np.eye(4).tolist())
TABLE = LabelTable.from_names(["liver"])


def request(oblique: Volume) -> FitRequest:
    return FitRequest({"ct": oblique, "mr": oblique}, oblique.with_array(oblique.array > 0), TABLE, case="Ü")


def test_volumes_come_back_bit_by_bit(tmp_path: Path, oblique_volume: Volume):
    sent = request(oblique_volume)
    packed = write_volumes(sent, tmp_path, "in")
    assert packed.images["mr"].file == "in-1.npy"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in-0.npy", "in-1.npy", "in-2.npy"]
    back = read_volumes(packed, tmp_path)
    assert list(back.images) == ["ct", "mr"]
    assert np.array_equal(back.images["ct"].array, oblique_volume.array)
    assert back.images["ct"].array.dtype == np.float32
    assert np.array_equal(back.images["ct"].affine, oblique_volume.affine)
    assert back.scribbles.array.dtype == bool
    assert back.case == "Ü"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [np.uint8, np.bool_, np.int16, np.float16, np.float32, np.float64, np.int64])
def test_every_kind_of_number_comes_back(tmp_path: Path, kind: type):
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    (back,) = read_volumes(write_volumes([Volume(array, np.eye(4))], tmp_path, "in"), tmp_path)
    assert back.array.dtype == array.dtype and np.array_equal(back.array, array)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full on this system")
def test_a_full_disk_is_told_apart_and_named(tmp_path: Path, oblique_volume: Volume):
    (tmp_path / "in-0.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write_volumes([oblique_volume], tmp_path, "in")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))


def test_volumes_are_found_at_any_depth(tmp_path: Path, oblique_volume: Volume):
    result = ReferResult({"a": oblique_volume}, {}, {"a": {"liver": oblique_volume}}, {}, None, "cpu", 1.0)
    back = read_volumes(write_volumes(result, tmp_path, "out"), tmp_path)
    assert np.array_equal(back.probabilities["a"]["liver"].array, oblique_volume.array)


def test_a_message_without_volumes_stays(tmp_path: Path):
    assert write_volumes(ModelsRequest(), tmp_path, "in") == ModelsRequest()
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_is_a_view_is_written_as_it_looks(tmp_path: Path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::-1]
    back = read_volumes(write_volumes([Volume(array, np.eye(4))], tmp_path, "in"), tmp_path)[0]
    assert np.array_equal(back.array, array)


@pytest.mark.parametrize(
    "name", ["../in-0.npy", "/etc/passwd", "a/b.npy", "in-0.npz", ".npy", "..", "in-0.npy\n", "C:x.npy"]
)
def test_only_plain_names_are_read(tmp_path: Path, name: str):
    (tmp_path / "job").mkdir()
    np.save(tmp_path / "in-0.npy", np.zeros((1, 1, 1)))
    with pytest.raises(InputError, match="plain name"):
        read_volumes([VolumeFile(name, EYE)], tmp_path / "job")


def test_no_link_is_followed(tmp_path: Path):
    (tmp_path / "job").mkdir()
    np.save(tmp_path / "secret.npy", np.zeros((1, 1, 1)))
    try:
        (tmp_path / "job" / "in-0.npy").symlink_to(tmp_path / "secret.npy")
    except OSError:
        pytest.skip("this system lets only administrators make links")
    with pytest.raises(InputError, match="not be a link"):
        read_volumes([VolumeFile("in-0.npy", EYE)], tmp_path / "job")
    assert (tmp_path / "secret.npy").exists()


def test_nothing_is_unpickled(tmp_path: Path):
    np.save(tmp_path / "in-0.npy", np.array([[[{}]]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read_volumes([VolumeFile("in-0.npy", EYE)], tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text"])
def test_damaged_and_missing_files(tmp_path: Path, content: bytes):
    with pytest.raises(InputError, match="cannot be read"):
        read_volumes([VolumeFile("in-0.npy", EYE)], tmp_path)
    (tmp_path / "in-0.npy").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_volumes([VolumeFile("in-0.npy", EYE)], tmp_path)
