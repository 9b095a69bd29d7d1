"""Files from a browser: names, sizes, and files that would reach for others."""

from __future__ import annotations

import asyncio
import io
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed (the extra [web])")

import aiohttp
import SimpleITK as sitk
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.io import read_volume
from CrossModalSegLib.web.uploads import Batch, Uploads, require_harmless, safe_name, split_suffix


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("ct.nii.gz", "ct.nii.gz"),
        ("../../etc/passwd", "passwd"),
        ("C:\\scans\\ct.nrrd", "ct.nrrd"),
        ("..", "file"),
        ("", "file"),
        ("Tumör links (2).mha", "Tumör links (2).mha"),
        ("a\n<b>&'\"\x00.nii", "a__b_____.nii"),
        (".bashrc", "bashrc"),
        ("con.nii.gz", "_con.nii.gz"),
    ],
)
def test_names_are_made_harmless(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def test_long_names_keep_their_suffix() -> None:
    name = safe_name("x" * 300 + ".seg.nrrd")
    assert len(name) == 80 and name.endswith("x.seg.nrrd")


def test_long_names_fit_file_systems_in_any_script(tmp_path: Path) -> None:
    batch = send(tmp_path, 2 * [("\U00020000" * 80 + ".nii.gz", b"1")])
    assert sorted(path.name.strip("\U00020000") for path in batch.paths) == [" (2).nii.gz", ".nii.gz"]


def test_suffixes_of_two_parts_are_one() -> None:
    assert split_suffix("a.b.nii.gz") == ("a.b", ".nii.gz")
    assert split_suffix("s.seg.nrrd") == ("s", ".seg.nrrd")
    assert split_suffix("slice.dcm") == ("slice.dcm", "")


def send(folder: Path, files: list[tuple[str, bytes]], uploads: Uploads | None = None) -> Batch:
    """Send files over HTTP to an `Uploads`."""
    form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    form.add_field("other", "no file")
    for name, content in files:
        form.add_field("file", io.BytesIO(content), filename=name)
    return send_body(uploads or Uploads(folder, 2**20), form)


def send_body(uploads: Uploads, body: aiohttp.FormData | bytes, headers: dict[str, str] | None = None) -> Batch:
    found = []

    async def take(request: web.Request) -> web.Response:
        try:
            found.append(await uploads.receive(request))
        except InputError as error:
            found.append(error)
        return web.Response()

    async def run() -> None:
        app = web.Application(client_max_size=0)
        app.router.add_post("/", take)
        async with TestClient(TestServer(app)) as client:
            await client.post("/", data=body, headers=headers)

    asyncio.run(run())
    if isinstance(found[0], InputError):
        raise found[0]
    return found[0]


def test_files_are_written_privately(tmp_path: Path) -> None:
    batch = send(tmp_path, [("a/ct.nii.gz", b"1"), ("ct.nii.gz", b"22")])
    assert [path.name for path in batch.paths] == ["ct (2).nii.gz", "ct.nii.gz"]
    assert [path.read_bytes() for path in batch.paths] == [b"22", b"1"]
    assert batch.folder.stat().st_mode & 0o777 == 0o700
    assert all(path.resolve().is_relative_to(tmp_path) for path in batch.paths)
    batch.discard()
    assert list(tmp_path.iterdir()) == []


def test_slices_become_one_folder(tmp_path: Path) -> None:
    batch = send(tmp_path, [("s/1.dcm", b"1"), ("s/2.dcm", b"2"), ("mr.nrrd", b"3")])
    assert [path.name for path in batch.paths] == ["mr.nrrd", "DICOM series"]
    assert sorted(path.name for path in batch.paths[1].iterdir()) == ["1.dcm", "2.dcm"]


def test_too_much_is_refused_and_removed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="larger than the 1 MB that this page takes"):
        send(tmp_path, [("ct.nii", bytes(2**20 + 1))])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_of_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it."""
    resource = pytest.importorskip("resource", reason="POSIX limits")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a library may have set it back to what ends a process
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"There is no room for 'ct.nii' where the page runs \("):
            send(tmp_path, [("ct.nii", bytes(2**19))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert list(tmp_path.iterdir()) == []


def test_what_was_refused_takes_no_room_from_what_comes_next(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 2**20)
    for _ in range(2):
        with pytest.raises(InputError, match="larger than"):
            send(tmp_path, [("ct.nii", bytes(2**20)), ("mr.nii", bytes(1))], uploads)
    assert len(send(tmp_path, [("ct.nii", bytes(2**20))], uploads).paths) == 1
    with pytest.raises(InputError, match="larger than"):
        send(tmp_path, [("mr.nii", bytes(1))], uploads)


def test_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No file came"):
        send(tmp_path, [])


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"no boundary"),
        ("multipart/form-data; boundary=" + "x" * 80, b""),
        ("multipart/mixed; boundary=x", PART + b"Content-Length: many\r\n\r\nab\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", PART + b"Content-Length: 1\r\n\r\nab\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", PART + b"\r\nab"),
        ("multipart/form-data; boundary=x", PART + b"no header\r\n\r\nab\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n--x--"),
    ],
)
def test_malformed_requests_are_refused_and_removed(tmp_path: Path, kind: str, body: bytes) -> None:
    with pytest.raises(InputError, match="did not come as a browser sends them"):
        send_body(Uploads(tmp_path, 2**20), body, {"Content-Type": kind})
    assert list(tmp_path.iterdir()) == []


def test_sentences_name_files_without_folders(tmp_path: Path) -> None:
    batch = Batch(tmp_path / "upload-1", ())
    path = batch.folder / "ct.nii"
    assert batch.problem(path, InputError(f"'{path}' is corrupt.")) == "'ct.nii' is corrupt."


def test_what_is_no_image_is_called_by_its_name(tmp_path: Path) -> None:
    batch = send(tmp_path, [("notes.txt", b"hello"), ("a/picture.png", b"world")])
    with pytest.raises(InputError) as raised:
        read_volume(batch.paths[0])
    assert batch.problem(batch.paths[0], raised.value).startswith("'notes.txt' is neither an image")


def image(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(path))
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.nii"])
def test_files_with_their_own_voxels_are_taken(tmp_path: Path, name: str) -> None:
    require_harmless(image(tmp_path / name))


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_detached_headers_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="keeps its voxels in another file"):
        require_harmless(image(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.nrrd", b"NRRD0004\ntype: short\ndata file: /etc/passwd\n\n"),
        ("a.nrrd", b"NRRD0004\ntype: short\nDataFile: ../other.raw\n\n"),
        ("a.mha", b"ObjectType = Image\nElementDataFile = /etc/passwd\n"),
        ("a.mha", b"ObjectType = Image\n"),
        ("a.nrrd", b"NRRD0004\ntype: short"),
    ],
)
def test_headers_that_point_elsewhere_are_refused(tmp_path: Path, name: str, header: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(header)
    with pytest.raises(InputError, match="keeps its voxels in another file"):
        require_harmless(path)


def test_huge_images_are_refused_by_their_headers(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(
        b"NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 4096 4096 4096\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: gzip\n"
        b"space origin: (0,0,0)\n\n"
    )
    with pytest.raises(InputError, match="more than 1,073,741,824 voxels"):
        require_harmless(path)
