"""What client and worker say to each other: frozen dataclasses, one line of strict JSON each.

A request or a result may hold volumes. On the wire these are names of files in the job's folder; `volume_files` puts
them there and gets them back, so that everyone else only sees `Volume`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from CrossModalSegLib.config import from_dict, parse_json, to_dict
from CrossModalSegLib.errors import Cancelled, CrossModalSegError, InputError, OutputError, WorkerError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume

PROTOCOL = 1
JOB_PATTERN = re.compile(r"[0-9a-f]{16}")
REFERENCE = "reference"
MAX_LINE_BYTES = 64 * 2**20

Row: TypeAlias = tuple[float, float, float, float]
Matrix: TypeAlias = tuple[Row, Row, Row, Row]


@dataclass(frozen=True)
class VolumeFile:
    """A volume on the wire.

    Attributes:
        file: name of an .npy file in the job's folder, without any folder.
        affine: takes a voxel index (i, j, k, 1) to LPS mm.
    """

    file: str
    affine: Matrix


AnyVolume: TypeAlias = Volume | VolumeFile
Pieces: TypeAlias = Literal["all", "large", "largest"]


# --- requests: work --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DoctorRequest:
    """What is installed, which devices there are, and what works. Answered by `DoctorResult`."""


@dataclass(frozen=True, eq=False)
class FitRequest:
    """Segment one case from its scribbles. Answered by `Preview`s and a `FitResult`.

    `finish` ends it with the best answer so far.

    Attributes:
        images: by modality: "ct", "mr" or both in this order, or one of another name. All are brought onto the grid of
            the first, on which the result is.
        scribbles: uint8, 0 background, 1..K classes, 255 unlabelled.
        labels: the classes.
        case: any text that stays the same for one case, such as a node's id. The worker keeps the last fit of each.
        resume: go on from the last fit of this case where the worker has one of the same method, start, modalities and
            names of classes.
        start: model folder or name to start from; the fit of `case` goes before it. None is the prior that ships.
        method: as in `fitting.fit_case.FitConfig`.
        seconds: for tuning; 0 stops at the first answer.
        preview_every: seconds between answers; 0 sends no previews.
        save_model: folder for the fitted network; must not exist yet.
        probabilities, uncertainty: whether the result holds them.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        seed: of every random choice.
    """

    images: dict[str, AnyVolume]
    scribbles: AnyVolume
    labels: LabelTable
    case: str = ""
    resume: bool = True
    start: str | None = None
    method: Literal["cmfnet", "scratch", "pce"] = "cmfnet"
    seconds: float = 120.0
    preview_every: float = 10.0
    save_model: Path | None = None
    probabilities: bool = False
    uncertainty: bool = False
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class TrainRequest:
    """Train a network on a cohort. Answered by a `ModelInfoResult`.

    What is needed to go on after a `Cancel` or a crash is kept in the folder `<out>.training`.

    Attributes:
        cohort: cohort file (.json, .csv), or an nnU-Net raw folder.
        out: model folder to make.
        preset: as of the command `train cmfnet`.
        steps: length; None is the preset's.
        resume: continue a training that was stopped.
        settings: further ones, in the form of the training.json of a trained model.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
    """

    cohort: Path
    out: Path
    preset: Literal["paper", "default", "fast"] = "default"
    steps: int | None = None
    resume: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True, eq=False)
class SegmentRequest:
    """Segment without scribbles, with a trained model. Answered by a `SegmentResult`.

    Attributes:
        images: by modality, as the model's card names them; a single image may have any name where the model takes
            one. All are brought onto the grid of the first, on which the result is.
        model: folder or name.
        probabilities, uncertainty: whether the result holds them.
        overlap: share of a window that its neighbour repeats.
        precision: "bf16" computes with bfloat16 where the device does so natively.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
    """

    images: dict[str, AnyVolume]
    model: str
    probabilities: bool = False
    uncertainty: bool = False
    overlap: float = 0.25
    precision: Literal["bf16", "fp32"] = "bf16"
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class ReferRequest:
    """Segment targets from scribbles on a reference. Answered by a `ReferResult`.

    The worker keeps the image features under `session`; later strokes come as `ReferStrokesRequest`. Images that it
    has already seen in the session are not encoded again.

    Attributes:
        reference: the image that is scribbled on.
        targets: by any name but "reference".
        scribbles: uint8 on the reference's grid, 0 background (may be missing), 1..K classes, 255 unlabelled.
        labels: the classes.
        session: any text that stays the same while corrections follow, such as a node's id.
        model: folder or name; None is the default model.
        probabilities: whether the result holds them.
        pieces: which connected pieces of an organ stay: all, those of a fifth of its largest or more, or the largest;
            those under a stroke in any case.
        tune_seconds: time to tune the network on the strokes.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
    """

    reference: AnyVolume
    targets: dict[str, AnyVolume]
    scribbles: AnyVolume
    labels: LabelTable
    session: str = ""
    model: str | None = None
    probabilities: bool = False
    pieces: Pieces = "large"
    tune_seconds: float = 0.0
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class ReferStrokesRequest:
    """Answer again after other strokes, from the features of a session. Answered by a `ReferResult`.

    Where the worker no longer has the session (it was restarted), the error is of the kind "session": send the whole
    `ReferRequest` again.

    Attributes:
        session: of the `ReferRequest`.
        scribbles, labels, probabilities, pieces, tune_seconds: as in `ReferRequest`.
    """

    session: str
    scribbles: AnyVolume
    labels: LabelTable
    probabilities: bool = False
    pieces: Pieces = "large"
    tune_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class RegisterRequest:
    """Align an image to another one of the same patient. Answered by a `RegisterResult`.

    Attributes:
        fixed: stays where it is.
        moving: is aligned.
        transform: which transform is fitted.
        start: "identity" trusts the positions, "geometry" and "moments" lay middle on middle or centre of mass on
            centre of mass, "auto" takes the best of them and of a search over shifts and turns up to 45 degrees.
        seed: of the sampled points.
    """

    fixed: AnyVolume
    moving: AnyVolume
    transform: Literal["rigid", "affine"] = "rigid"
    start: Literal["auto", "identity", "geometry", "moments"] = "auto"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class AutoBackgroundRequest:
    """Propose background scribbles. Answered by an `AutoBackgroundResult`.

    Attributes:
        scribbles: uint8, 0 background, 1..K classes, 255 unlabelled.
        image: brought onto the grid of the scribbles; background is proposed on the body that it shows. None allows the
            whole grid.
        margin_mm: distance that stays free around the scribbled classes.
        coverage: share of the pixels of a slice to draw; None is the paper's.
        seed: of every random choice.
    """

    scribbles: AnyVolume
    image: AnyVolume | None = None
    margin_mm: float = 30.0
    coverage: float | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class EvaluateRequest:
    """Measure a segmentation against a mask. Answered by an `EvaluateResult`.

    Attributes:
        prediction: labels 0..K.
        mask: reference labels 0..K on the same grid.
        labels: the classes.
        tolerances_mm: at which NSD is given.
    """

    prediction: AnyVolume
    mask: AnyVolume
    labels: LabelTable
    tolerances_mm: tuple[float, ...] = (1.0, 2.0)


@dataclass(frozen=True)
class WriteCaseRequest:
    """Write a scribbled case for a cohort. Answered by a `WriteCaseResult`.

    Attributes:
        folder: where to; exists.
        name: with which the names of the files begin.
        images: by modality.
        scribbles: 0 background, 1..K classes, 255 unlabelled.
        number, total: which case of how many it is, from 1; told with the progress.
    """

    folder: Path
    name: str
    images: dict[str, AnyVolume]
    scribbles: AnyVolume
    number: int = 1
    total: int = 1


@dataclass(frozen=True)
class ModelsRequest:
    """The models that are found by name. Answered by a `ModelsResult`."""


@dataclass(frozen=True)
class ModelInfoRequest:
    """One model, loaded and checked. Answered by a `ModelInfoResult`.

    Attributes:
        model: folder or name.
    """

    model: str


@dataclass(frozen=True)
class ImportModelRequest:
    """Install a model. Answered by a `ModelInfoResult`.

    Attributes:
        source: model folder or zip archive.
        name: of the installed model; None takes the one in its card.
        overwrite: whether an installed model of that name may be replaced.
    """

    source: Path
    name: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ExportModelRequest:
    """Write a model somewhere else. Answered by an `ExportModelResult`.

    Attributes:
        model: folder or name.
        out: a .zip file for "zip", which `ImportModelRequest` takes again, or a folder for "bundle".
        form: "zip", or "bundle" for a MONAI bundle.
        overwrite: whether `out` may be replaced.
    """

    model: str
    out: Path
    form: Literal["zip", "bundle"] = "zip"
    overwrite: bool = False


@dataclass(frozen=True)
class DeleteModelRequest:
    """Delete an installed model; those that ship with the library stay. Answered by a `ModelsResult` of the others.

    Attributes:
        name: of the model.
    """

    name: str


# --- requests: control -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """The first message; answered by `Ready`.

    Attributes:
        version: of the client's library.
        folder: where the folders of the jobs are.
        parent_pid: of the program that the worker serves; the worker ends when it is gone.
        parent_created: when that process began, as `processes.created` says; tells it from a later one of the same
            number.
    """

    version: str
    folder: Path
    parent_pid: int
    parent_created: float


@dataclass(frozen=True)
class Cancel:
    """Stop the job and drop what it has."""


@dataclass(frozen=True)
class Finish:
    """Stop the job as soon as it has an answer, and give the best one."""


@dataclass(frozen=True)
class Pause:
    """Stand still after the present step."""


@dataclass(frozen=True)
class Resume:
    """Go on after a pause."""


@dataclass(frozen=True)
class Shutdown:
    """End the process."""


# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """The worker is there.

    Attributes:
        version: of its library.
        pid: of its process.
    """

    version: str
    pid: int


@dataclass(frozen=True)
class Queued:
    """The job waits.

    Attributes:
        ahead: jobs before it.
    """

    ahead: int


@dataclass(frozen=True)
class Running:
    """The job began, or went on after a pause."""


@dataclass(frozen=True)
class Paused:
    """The job stands still."""


@dataclass(frozen=True)
class Progress:
    """How far a job has come.

    Attributes:
        done: steps finished so far.
        total: steps in all; 0 when unknown.
        message: what is being done.
        values: figures worth showing, such as {"loss": 0.3}; all finite.
        eta: seconds that remain by the pace so far, without pauses; None when unknown.
    """

    done: int = 0
    total: int = 0
    message: str = ""
    values: dict[str, float] = field(default_factory=dict)
    eta: float | None = None


@dataclass(frozen=True, eq=False)
class Preview:
    """The best answer so far of a fit.

    Attributes:
        labels: uint8 on the grid of the result.
        name: "first answer" or "step N".
        seconds: since the fit began.
        agreement: with the held-out scribbles, 0 to 1, or None.
    """

    labels: AnyVolume
    name: str
    seconds: float
    agreement: float | None


@dataclass(frozen=True)
class Log:
    """Something the person should know, such as a smaller window for want of memory.

    Attributes:
        message: a sentence.
    """

    message: str


ErrorKind = Literal["cancelled", "input", "memory", "disk", "taken", "session", "missing", "crash", "message", "defect"]


@dataclass(frozen=True)
class Error:
    """Why a job ended without a result.

    Attributes:
        kind: "cancelled": on request; "input": something in the request cannot be used; "memory": not enough of it;
            "disk": a file cannot be read or written; "taken": something is where the output should go; "session": a
            `ReferStrokesRequest` without its session; "missing": a package is not installed; "crash": the worker ended;
            "message": the worker did not understand a message; "defect": of this program.
        message: a sentence for the person.
    """

    kind: ErrorKind
    message: str

    def as_exception(self) -> CrossModalSegError:
        """To be raised by whoever waits for the result."""
        return _EXCEPTIONS.get(self.kind, WorkerError)(self.message)


_EXCEPTIONS: dict[ErrorKind, type[CrossModalSegError]] = {
    "cancelled": Cancelled,
    "input": InputError,
    "missing": InputError,
    "session": InputError,
    "disk": OutputError,
    "taken": OutputError,
}


# --- results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        topic: the heading it belongs to.
        name: what was looked at.
        value: what was found.
        problem: what is wrong and what to do; None when all is well.
    """

    topic: str
    name: str
    value: str
    problem: str | None = None


@dataclass(frozen=True)
class Device:
    """Something to compute on.

    Attributes:
        name: as requests name it.
        description: as people know it.
        free_bytes, total_bytes: of its memory; None when unknown.
        is_default: whether "auto" takes it.
    """

    name: str
    description: str
    free_bytes: int | None
    total_bytes: int | None
    is_default: bool


@dataclass(frozen=True)
class DoctorResult:
    """What is installed and what works.

    Attributes:
        findings: as the command `doctor` shows them.
        devices: those that are there.
    """

    findings: tuple[Finding, ...]
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Answer:
    """One answer of a fit.

    Attributes:
        name: "first answer" or "step N".
        seconds: since the fit began.
        agreement: with the held-out scribbles, 0 to 1, or None.
        is_best: whether it was the best so far.
    """

    name: str
    seconds: float
    agreement: float | None
    is_best: bool


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit gives, on the grid of the first image.

    Attributes:
        labels: uint8, 0 background and 1..K.
        milliliters: by class name.
        probabilities: float32 by class name; empty when not asked for.
        uncertainty: float32, 0 to 1; None when not asked for.
        history: the loss terms; all lists have one entry a step, None where a value was not finite.
        answers: in order.
        resumed: whether it went on from an earlier fit.
        is_complete: whether it ran to its end rather than to a `Finish`.
        device: where it was computed.
        seconds: it took, without pauses.
    """

    labels: AnyVolume
    milliliters: dict[str, float]
    probabilities: dict[str, AnyVolume]
    uncertainty: AnyVolume | None
    history: dict[str, list[float | None]]
    answers: tuple[Answer, ...]
    resumed: bool
    is_complete: bool
    device: str
    seconds: float


@dataclass(frozen=True, eq=False)
class SegmentResult:
    """What a model says, on the grid of the first image.

    Attributes:
        labels: uint8, 0 background and 1..K.
        table: the model's classes.
        milliliters: by class name.
        probabilities: float32 by class name; empty when not asked for.
        uncertainty: float32, 0 to 1; None when not asked for.
        device: where it was computed.
        seconds: it took, without pauses.
    """

    labels: AnyVolume
    table: LabelTable
    milliliters: dict[str, float]
    probabilities: dict[str, AnyVolume]
    uncertainty: AnyVolume | None
    device: str
    seconds: float


@dataclass(frozen=True, eq=False)
class ReferResult:
    """What the reference's scribbles say about every volume, each on its own grid.

    Attributes:
        labels: uint8, 0 background and 1..K, by target name, and under "reference".
        milliliters: by volume and class name.
        probabilities: float32 by volume and class name; empty when not asked for.
        reports: by volume: how slices were matched, which classes are present.
        tuning: what tuning on the strokes brought; None when not asked for.
        device: where it was computed.
        seconds: it took, without pauses.
    """

    labels: dict[str, AnyVolume]
    milliliters: dict[str, dict[str, float]]
    probabilities: dict[str, dict[str, AnyVolume]]
    reports: dict[str, dict[str, Any]]
    tuning: dict[str, Any] | None
    device: str
    seconds: float


@dataclass(frozen=True)
class RegisterResult:
    """How the moving image has to move.

    Attributes:
        matrix: takes LPS points of the moving image to where they lie on the fixed image: what a transform node above
            the moving volume holds (in LPS).
        metric: mutual information at the end; greater is better.
        metric_before: the same before.
        start: which start was taken.
        iterations: optimiser steps.
    """

    matrix: Matrix
    metric: float | None
    metric_before: float | None
    start: str
    iterations: int


@dataclass(frozen=True, eq=False)
class AutoBackgroundResult:
    """Proposed background.

    Attributes:
        background: uint8 on the scribbles' grid, 1 on proposed voxels, none of which was scribbled.
    """

    background: AnyVolume


@dataclass(frozen=True)
class EvaluateResult:
    """Measures.

    Attributes:
        report: as `metrics.MetricsReport.to_json` gives it: "mean" and "labels", with DSC, ASD, HD95 and NSD.
    """

    report: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A model that is found by name or folder.

    Attributes:
        name: to ask for it.
        folder: where it lies.
        is_shipped: whether it came with the library; such a model cannot be deleted.
        bytes: size of its files.
        problem: why it is not usable, or None. Where its card cannot be read, the rest is empty.
        task: "segment" without scribbles, "fit" as a start, or "refer"; None where nothing here uses it.
        architecture: of the network.
        modalities: names of its images.
        labels: its classes, or None.
        licence: of its weights.
        provenance: data, method, settings, dates.
        metrics: of its validation.
    """

    name: str
    folder: Path
    is_shipped: bool
    bytes: int
    problem: str | None = None
    task: Literal["segment", "fit", "refer"] | None = None
    architecture: str = ""
    modalities: tuple[str, ...] = ()
    labels: LabelTable | None = None
    licence: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelsResult:
    """Models by name.

    Attributes:
        models: sorted by name.
        folder: where models are installed.
    """

    models: tuple[Model, ...]
    folder: Path


@dataclass(frozen=True)
class ModelInfoResult:
    """One model that was loaded and checked.

    Attributes:
        model: what it is.
        parameters: of its network.
    """

    model: Model
    parameters: int


@dataclass(frozen=True)
class ExportModelResult:
    """Where a model was written.

    Attributes:
        out: the file or folder.
    """

    out: Path


@dataclass(frozen=True)
class WriteCaseResult:
    """Where a case was written.

    Attributes:
        images: files by modality.
        scribbles: file.
    """

    images: dict[str, Path]
    scribbles: Path


# --- the wire --------------------------------------------------------------------------------------------------------

JobRequest: TypeAlias = (
    DoctorRequest
    | FitRequest
    | TrainRequest
    | SegmentRequest
    | ReferRequest
    | ReferStrokesRequest
    | RegisterRequest
    | AutoBackgroundRequest
    | EvaluateRequest
    | WriteCaseRequest
    | ModelsRequest
    | ModelInfoRequest
    | ImportModelRequest
    | ExportModelRequest
    | DeleteModelRequest
)
Control: TypeAlias = Hello | Cancel | Finish | Pause | Resume | Shutdown
Result: TypeAlias = (
    DoctorResult
    | FitResult
    | SegmentResult
    | ReferResult
    | RegisterResult
    | AutoBackgroundResult
    | EvaluateResult
    | ModelsResult
    | ModelInfoResult
    | ExportModelResult
    | WriteCaseResult
)
Event: TypeAlias = Ready | Queued | Running | Paused | Progress | Preview | Log | Error | Result
Message: TypeAlias = JobRequest | Control | Event

REQUESTS: dict[str, type] = {
    "hello": Hello,
    "doctor": DoctorRequest,
    "fit": FitRequest,
    "train": TrainRequest,
    "segment": SegmentRequest,
    "refer": ReferRequest,
    "refer_strokes": ReferStrokesRequest,
    "register": RegisterRequest,
    "auto_background": AutoBackgroundRequest,
    "evaluate": EvaluateRequest,
    "write_case": WriteCaseRequest,
    "models": ModelsRequest,
    "model_info": ModelInfoRequest,
    "import_model": ImportModelRequest,
    "export_model": ExportModelRequest,
    "delete_model": DeleteModelRequest,
    "cancel": Cancel,
    "finish": Finish,
    "pause": Pause,
    "resume": Resume,
    "shutdown": Shutdown,
}
EVENTS: dict[str, type] = {
    "ready": Ready,
    "queued": Queued,
    "running": Running,
    "paused": Paused,
    "progress": Progress,
    "preview": Preview,
    "log": Log,
    "error": Error,
    "doctor_result": DoctorResult,
    "fit_result": FitResult,
    "segment_result": SegmentResult,
    "refer_result": ReferResult,
    "register_result": RegisterResult,
    "auto_background_result": AutoBackgroundResult,
    "evaluate_result": EvaluateResult,
    "models_result": ModelsResult,
    "model_info_result": ModelInfoResult,
    "export_model_result": ExportModelResult,
    "write_case_result": WriteCaseResult,
}
RESULT_TYPES = tuple(kind for name, kind in EVENTS.items() if name.endswith("_result"))
JOB_REQUEST_TYPES = tuple(kind for name, kind in REQUESTS.items() if kind.__name__.endswith("Request"))
_NAMES = {kind: name for name, kind in (REQUESTS | EVENTS).items()}
_KEYS = {"protocol", "kind", "job", "content"}


@dataclass(frozen=True)
class Envelope:
    """A message and the job it is about.

    Attributes:
        message: with volumes as files.
        job: 16 hexadecimal digits, or None where it is about the worker itself.
    """

    message: Message
    job: str | None = None


def to_line(envelope: Envelope) -> bytes:
    """A message as one line of ASCII, with the newline.

    Raises:
        InputError: it holds something that JSON cannot, such as a volume that is not on disk yet.
    """
    data = {
        "protocol": PROTOCOL,
        "kind": _NAMES[type(envelope.message)],
        "job": envelope.job,
        "content": to_dict(envelope.message),
    }
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


class MessageError(InputError):
    """A line is no message that is understood here.

    Attributes:
        job: which job it was about, where that could still be read.
    """

    def __init__(self, sentence: str, job: str | None = None) -> None:
        super().__init__(sentence)
        self.job = job


def from_line(line: bytes, kinds: dict[str, type]) -> Envelope:
    """The message of a line, checked in every part.

    Args:
        line: without or with its newline.
        kinds: which messages are expected: `REQUESTS` or `EVENTS`.

    Raises:
        MessageError: it is no such message, or one of another version of the protocol.
    """
    data = _parsed(line)
    if not isinstance(data, dict) or "protocol" not in data:
        raise MessageError("A message should be an object with the key 'protocol'.")
    if data["protocol"] != PROTOCOL:
        raise MessageError(
            f"Messages of the protocol {PROTOCOL} are understood here, got one of {data['protocol']!r}. The two sides "
            "come from different versions of CrossModalSegLib: install the same for both and start again."
        )
    if set(data) != _KEYS:
        raise MessageError(f"A message should have the keys {', '.join(sorted(_KEYS))}; got {', '.join(sorted(data))}.")
    kind, job = data["kind"], data["job"]
    if not isinstance(kind, str) or kind not in kinds:
        raise MessageError(f"There is no message of the kind {str(kind)[:40]!r} here.")
    if job is not None and not (isinstance(job, str) and JOB_PATTERN.fullmatch(job)):
        raise MessageError("A job should be named by 16 hexadecimal digits.")
    try:
        return Envelope(from_dict(kinds[kind], data["content"]), job)
    except CrossModalSegError as error:
        raise MessageError(str(error), job) from error


def _parsed(line: bytes) -> object:
    if len(line) > MAX_LINE_BYTES:
        raise MessageError(f"A message should have at most {MAX_LINE_BYTES >> 20} MB.")
    try:
        return parse_json(line.decode("utf-8"), "The message")
    except (UnicodeDecodeError, InputError) as error:
        raise MessageError("A message should be strict JSON in UTF-8 text.") from error
