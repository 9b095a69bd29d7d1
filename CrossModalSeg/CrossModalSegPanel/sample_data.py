"""Sample data: Slicer's CT and MR of a head, and a simulated head with a tumour, which is made here, not downloaded."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import slicer

from CrossModalSegPanel import installation

CATEGORY = "CrossModalSeg"
PHANTOM = "CrossModalSegPhantom"
SLICERS_OWN = "CTMRBrain"
NAME = "Phantom"
SHAPE, SPACING = (), ()  # slices, rows, columns; empty takes the simulation's own
EVERY = 3

_ICON = Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "CrossModalSeg.png"
_WAIT_SECONDS = 0.05


class Phantom(NamedTuple):
    """The nodes of a simulated patient: two volumes, strokes on every third slice, and the truth, hidden."""

    ct: object
    mr: object
    scribbles: object
    mask: object


def register() -> None:
    """Offer both in the module Sample Data; without effect where that module is not there."""
    try:
        import SampleData
    except ImportError:
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=PHANTOM,
        uris=["made-on-this-computer"],  # Slicer wants one for each file
        fileNames=[f"{PHANTOM}.nrrd"],
        nodeNames=[PHANTOM],
        checksums=[None],
        thumbnailFileName=str(_ICON),
        customDownloader=_make,
    )
    own = SampleData.SampleDataLogic().sourceForSampleName(SLICERS_OWN)
    if own is not None:  # the very files and checksums of this Slicer
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=SLICERS_OWN,
            uris=own.uris,
            fileNames=own.fileNames,
            nodeNames=own.nodeNames,
            checksums=own.checksums,
            loadFiles=own.loadFiles,
            # Newer versions of Slicer have a list of them, and take it by the old name, too.
            loadFileType=own.loadFileTypes if hasattr(own, "loadFileTypes") else own.loadFileType,
            thumbnailFileName=own.thumbnailFileName,
        )


def loadPhantom(seed: int = 0) -> Phantom:
    """Simulate a head with a tumour, and add it to the scene. The same seed gives the same voxels.

    Args:
        seed: of the patient.

    Raises:
        SetupError: the library is not installed, or the simulation failed.
    """
    if importlib.util.find_spec("CrossModalSegLib") is None:
        raise installation.SetupError(
            "The phantom is made by the library CrossModalSegLib, which is not installed yet. Open the module "
            "CrossModalSeg and press 'Install' in the step 'Environment', then try again."
        )
    from CrossModalSegLib.cohort import load_case, read_cohort
    from CrossModalSegLib.scene.cases import add_case

    with tempfile.TemporaryDirectory(prefix="CrossModalSeg-") as folder:
        _simulate(Path(folder) / "cohort", seed)
        cohort = read_cohort(Path(folder) / "cohort" / "cohort.json")
        loaded = load_case(cohort.cases[0], cohort)
    nodes = add_case(slicer.mrmlScene, replace(loaded, name=NAME), cohort.labels)
    return Phantom(nodes.images["ct"], nodes.images["mr"], nodes.scribbles, nodes.mask)


def _make(source):
    """What the button in Sample Data does; the nodes."""
    try:
        return list(loadPhantom())
    except installation.SetupError as error:
        slicer.util.errorDisplay(str(error))
        return []


def _simulate(out: Path, seed: int) -> None:
    command = [installation.python_command(), "-m", "CrossModalSegLib", "simulate", "--out", str(out), "--quiet"]
    command += ["--cases", "1", "--anatomy", "head", "--seed", str(seed), "--every", str(EVERY)]
    for option, values in (("--shape", SHAPE), ("--spacing", SPACING)):
        command += [option, *map(str, values)] if values else []
    with tempfile.TemporaryFile() as said:
        quiet = installation.no_window()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, **quiet)
        try:
            _wait(process)
        except BaseException:
            process.kill()
            raise
        if process.returncode:
            said.seek(0)
            text = said.read()[-2000:].decode("utf-8", "replace")
            raise installation.SetupError(f"The phantom could not be made:\n{text.strip()}")


def _wait(process: subprocess.Popen) -> None:
    """Until it ends; meanwhile the application goes on."""
    app = getattr(slicer, "app", None)
    while process.poll() is None:
        if app is not None:
            app.processEvents()
        time.sleep(_WAIT_SECONDS)
