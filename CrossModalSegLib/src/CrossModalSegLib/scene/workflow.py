"""All that a panel, a console, a script or a page does with nodes, one function each.

What takes long runs in the worker process and comes back as a `Task`. Results come into the scene inside of
`WorkerClient.poll` (or `Task.wait`), in the thread that calls it; each is one step of `undo`, which goes back ten of
them. Scribbles are never changed, but for background that `auto_background` adds where nothing is drawn.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import slicer

from CrossModalSegLib.errors import InputError, LabelError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.worker.client import WorkerClient
from CrossModalSegLib.worker.messages import (
    REFERENCE,
    AutoBackgroundRequest,
    AutoBackgroundResult,
    Error,
    EvaluateRequest,
    EvaluateResult,
    FitRequest,
    FitResult,
    Model,
    ModelInfoResult,
    Pieces,
    Preview,
    ReferRequest,
    ReferResult,
    ReferStrokesRequest,
    RegisterRequest,
    RegisterResult,
    SegmentRequest,
    SegmentResult,
    TrainRequest,
    WriteCaseRequest,
    WriteCaseResult,
)

from .alignment import apply_transform
from .change import Change
from .cohorts import CohortWriter, set_images
from .geometry import affine_in, world_affine
from .lending import LentImages
from .nodes import require_present
from .plots import Curve
from .preview import Compared
from .preview import Preview as ShownResult
from .results import Segmented, last_result, result_name, write_agreement, write_beside, write_referred
from .scribbles import add_auto_background, copy_complete_scribbles, copy_scribbles, prepare_scribbles
from .segmentations import named_classes, read_mask, require_writable, write_segmentation
from .snapshot import Snapshot, require_same_voxels
from .task import Plan, Task

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLNode,
        vtkMRMLScene,
        vtkMRMLSegmentationNode,
        vtkMRMLTableNode,
        vtkMRMLVolumeNode,
    )

_CASE_ATTRIBUTE = "CrossModalSeg.Case"
_UNDO_STEPS = 10  # each keeps the voxels that were there before, 80 MB in a volume of 512 by 512 by 300


@dataclass(eq=False)
class _Shown:
    """The images that were last sent for a session of the worker.

    Attributes:
        state: what they were, and what else a session depends on.
        is_known: whether the worker has answered since, so that it has the features of all of them.
    """

    state: tuple[object, ...]
    is_known: bool = False


class Workflow:
    """The functions on nodes of one scene.

    Attributes:
        scene: holds the nodes.
        client: the way to the worker; somebody has to call its `poll`.
        curve: the loss of the last fit or training; None before the first one.
    """

    def __init__(self, scene: vtkMRMLScene, client: WorkerClient) -> None:
        self.scene, self.client = scene, client
        self.curve: Curve | None = None
        self._changes: list[Change] = []
        self._shown: dict[str, _Shown] = {}

    # --- undo ---

    @property
    def can_undo(self) -> bool:
        """Whether there is a result to take back."""
        self._forget_moot()
        return bool(self._changes)

    def undo(self) -> bool:
        """Take the last result back; whether there was one."""
        if not self.can_undo:
            return False
        self._changes.pop().undo()
        return True

    # --- scribbles ---

    def prepare_scribbles(
        self,
        reference: vtkMRMLVolumeNode,
        table: LabelTable,
        name: str = "Scribbles",
        into: vtkMRMLSegmentationNode | None = None,
    ) -> vtkMRMLSegmentationNode:
        """`scribbles.prepare_scribbles` in this scene."""
        return prepare_scribbles(self.scene, reference, table, name, into)

    def auto_background(
        self,
        reference: vtkMRMLVolumeNode,
        scribbles: vtkMRMLSegmentationNode,
        table: LabelTable,
        *,
        margin_mm: float = 30.0,
        coverage: float | None = None,
        seed: int = 0,
        undoable: bool = True,
    ) -> Task:
        """Propose background scribbles and draw them where nothing is drawn.

        Args:
            reference: the volume that is drawn on.
            scribbles: at least one class is scribbled.
            table: the classes.
            margin_mm, coverage, seed: as in `AutoBackgroundRequest`.
            undoable: whether `undo` takes it back; else whoever draws does.

        Returns:
            A task whose result is the number of voxels that were drawn.

        Raises:
            CrossModalSegError: a node cannot be used, or the scribbles are faulty.
        """
        require_present(self.scene, reference, scribbles)
        strokes, lent = copy_scribbles(scribbles, reference, table), LentImages({"image": reference})
        before = lent.snapshots["image"]

        def request() -> AutoBackgroundRequest:
            return AutoBackgroundRequest(strokes.volume(), lent.volumes()["image"], margin_mm, coverage, seed)

        def write(result: AutoBackgroundResult) -> int:
            with self._step() if undoable else Change(self.scene) as change:
                return add_auto_background(scribbles, reference, table, before.now(result.background), change)

        return self._start([reference, scribbles], Plan(request, write, sent=lent.require_same_voxels))

    # --- registration ---

    def register(
        self,
        fixed: vtkMRMLVolumeNode,
        moving: vtkMRMLVolumeNode,
        *,
        transform: Literal["rigid", "affine"] = "rigid",
        start: Literal["auto", "identity", "geometry", "moments"] = "auto",
        seed: int = 0,
        name: str = "Registration",
    ) -> Task:
        """Align a volume to another one by a linear transform node above it, as `alignment.apply_transform` does.

        Args:
            fixed: stays where it is.
            moving: is aligned, with what was drawn on it.
            transform, start, seed: as in `RegisterRequest`.
            name: of the transform node.

        Returns:
            A task whose result is the transform node.

        Raises:
            CrossModalSegError: a node cannot be used.
        """
        require_present(self.scene, fixed, moving)
        _require_different(fixed, moving)
        lent = LentImages({"fixed": fixed, "moving": moving})
        still, moved = lent.snapshots.values()

        def request() -> RegisterRequest:
            return RegisterRequest(**lent.volumes(), transform=transform, start=start, seed=seed)

        def write(result: RegisterResult) -> vtkMRMLNode:
            # From where the volumes were when the images were compared, to where they are now.
            matrix = still.movement() @ np.array(result.matrix) @ np.linalg.inv(moved.movement())
            with self._step() as change:
                return apply_transform(self.scene, moving, matrix, name, change)

        return self._start([fixed, moving], Plan(request, write, sent=lent.require_same_voxels))

    # --- segmentation ---

    def fit(
        self,
        images: Mapping[str, vtkMRMLVolumeNode],
        scribbles: vtkMRMLSegmentationNode,
        table: LabelTable,
        *,
        into: vtkMRMLSegmentationNode | None = None,
        name: str | None = None,
        seconds: float = 120.0,
        preview_every: float = 10.0,
        method: Literal["cmfnet", "scratch", "pce"] = "cmfnet",
        start: str | None = None,
        resume: bool = True,
        save_model: Path | None = None,
        probabilities: bool = False,
        uncertainty: bool = False,
        show_3d: bool = False,
        device: str = "auto",
        seed: int = 0,
    ) -> Task:
        """Segment a case from its scribbles, with a live preview and a growing loss curve (`curve`).

        Called again for the same first image and classes, it goes on from the last fit and shows the result in the
        same segmentation.

        Args:
            images: by modality: "ct", "mr" or both in this order, or one of another name. The result lies on the first.
            scribbles: strokes of every class and of the background, inside of the first image.
            table: the classes.
            into: segmentation for the result; None takes that of the last result of this name, or a new one.
            name: of a new segmentation; None takes the first image's.
            show_3d: whether surfaces are made of the result.
            seconds, preview_every, method, start, resume, save_model, probabilities, uncertainty, device, seed: as in
                `FitRequest`.

        Returns:
            A task whose result is `Segmented`. `Task.finish` keeps the best answer so far, `Task.cancel` none.

        Raises:
            CrossModalSegError: a node cannot be used, or the scribbles are faulty or incomplete.
        """
        reference, nodes = self._checked_images(images)
        require_present(self.scene, scribbles, into)
        lent, strokes = LentImages(images), copy_complete_scribbles(scribbles, reference, table)
        set_images(scribbles, images)
        before, case = next(iter(lent.snapshots.values())), _case(reference)
        name = name or result_name(reference)
        target = self._target(reference, name, into, scribbles)
        shown, had_curve = ShownResult(self.scene, table, reference, name, target), self._has_curve()

        def request() -> FitRequest:
            shown.make_room()
            return FitRequest(
                images=lent.volumes(),
                scribbles=strokes.volume(),
                labels=table,
                case=case,
                resume=resume,
                start=start,
                method=method,
                seconds=seconds,
                preview_every=preview_every,
                save_model=save_model,
                probabilities=probabilities,
                uncertainty=uncertainty,
                device=device,
                seed=seed,
            )

        def compare(preview: Preview) -> Compared:
            return shown.compare(preview.labels)

        def show(compared: Compared) -> vtkMRMLSegmentationNode:
            return shown.show(before.now(compared.labels), compared)

        def write(result: FitResult) -> Segmented:
            node = shown.finish(before.now(result.labels), show_3d)
            with Change(self.scene, part_of=shown.step) as change:
                segmented = write_beside(self.scene, before, node, name, result, change)
                if not had_curve and self._has_curve():
                    change.created(self.curve.table, self._remove_curve)
            self._note(shown.step)
            return segmented

        def revert() -> None:
            shown.cancel()
            if not had_curve:
                self._remove_curve()

        plan = Plan(
            request,
            write,
            show,
            digest=compare,
            sent=lent.require_same_voxels,
            follow=self._new_follower(),
            revert=revert,
        )
        return self._start([*nodes, scribbles], plan)

    def segment(
        self,
        images: Mapping[str, vtkMRMLVolumeNode],
        model: str,
        *,
        into: vtkMRMLSegmentationNode | None = None,
        name: str | None = None,
        probabilities: bool = False,
        uncertainty: bool = False,
        show_3d: bool = False,
        device: str = "auto",
    ) -> Task:
        """Segment images by a trained model, without scribbles.

        Args:
            images: by modality, as the model names them. The result lies on the first.
            model: folder or name.
            into, name, show_3d: as in `fit`.
            probabilities, uncertainty, device: as in `SegmentRequest`.

        Returns:
            A task whose result is `Segmented`.

        Raises:
            CrossModalSegError: a node cannot be used.
        """
        reference, nodes = self._checked_images(images)
        require_present(self.scene, into)
        lent = LentImages(images)
        before = next(iter(lent.snapshots.values()))
        name = name or result_name(reference)
        self._target(reference, name, into)

        def request() -> SegmentRequest:
            return SegmentRequest(
                lent.volumes(), model, probabilities=probabilities, uncertainty=uncertainty, device=device
            )

        def write(result: SegmentResult) -> Segmented:
            labels, target = before.now(result.labels), self._target(reference, name, into)
            with self._step() as change:
                node = write_segmentation(self.scene, labels, result.table, reference, name, target, show_3d, change)
                return write_beside(self.scene, before, node, name, result, change)

        return self._start(nodes, Plan(request, write, sent=lent.require_same_voxels))

    def refer(
        self,
        reference: vtkMRMLVolumeNode,
        targets: Sequence[vtkMRMLVolumeNode],
        scribbles: vtkMRMLSegmentationNode,
        table: LabelTable,
        *,
        model: str | None = None,
        probabilities: bool = False,
        pieces: Pieces = "large",
        tune_seconds: float = 0.0,
        show_3d: bool = False,
        device: str = "auto",
    ) -> Task:
        """Segment a reference and targets from scribbles on the reference.

        Called again with the same volumes after other strokes, only the strokes are sent: the worker still has the
        images' features.

        Args:
            reference: the volume that is scribbled on.
            targets: other volumes; each gets a segmentation of its own, under its own transform and folder.
            scribbles: strokes of every class; background is not needed.
            table: the classes.
            show_3d: whether surfaces are made of the results.
            model, probabilities, pieces, tune_seconds, device: as in `ReferRequest`.

        Returns:
            A task whose result is `Segmented`.

        Raises:
            CrossModalSegError: a node cannot be used, or the scribbles are faulty or incomplete.
        """
        require_present(self.scene, reference, *targets, scribbles)
        volumes = dict(zip(_names([reference, *targets]), [reference, *targets], strict=True))
        _require_different(*volumes.values())
        strokes = copy_complete_scribbles(scribbles, reference, table, background=False)
        before = {name: Snapshot(node) for name, node in volumes.items()}
        for node in volumes.values():
            self._target(node, result_name(node), scribbles=scribbles)
        session, state = _case(reference), (model, device, *volumes, *(_state(node) for node in volumes.values()))
        shown = self._shown.get(session)

        def whole() -> Callable[[], ReferRequest]:
            nonlocal shown
            lent = LentImages(volumes)
            # From now on the worker may have other images than before, also where this is cancelled.
            shown = self._shown[session] = _Shown(state)

            def request() -> ReferRequest:
                images = lent.volumes()
                return ReferRequest(
                    reference=images.pop(REFERENCE),
                    targets=images,
                    scribbles=strokes.volume(),
                    labels=table,
                    session=session,
                    model=model,
                    probabilities=probabilities,
                    pieces=pieces,
                    tune_seconds=tune_seconds,
                    device=device,
                )

            return request

        def strokes_only() -> ReferStrokesRequest:
            return ReferStrokesRequest(session, strokes.volume(), table, probabilities, pieces, tune_seconds)

        def again(error: Error) -> Callable[[], ReferRequest] | None:
            return whole() if error.kind == "session" else None

        def write(result: ReferResult) -> Segmented:
            shown.is_known = True
            with self._step() as change:
                return write_referred(self.scene, before, table, show_3d, result, change, scribbles)

        is_known = shown is not None and shown.is_known and shown.state == state
        request = strokes_only if is_known else whole()
        plan = Plan(request, write, sent=partial(require_same_voxels, before.values()), again=again)
        return self._start([*volumes.values(), scribbles], plan)

    def write_cases(self, folder: Path) -> Task:
        """Write all scribbled cases of the scene as a cohort, for `train`: those that `fit` or `set_images` noted.

        Args:
            folder: where to; must not exist, or be empty. It appears when all is written.

        Returns:
            A task whose result is the cohort file.

        Raises:
            CrossModalSegError: there is no case, the cases do not fit together, or the folder is taken.
        """
        writer = CohortWriter(self.scene, folder)
        try:
            first = writer.next_case()
        except BaseException:
            writer.cancel()
            raise

        def more(result: WriteCaseResult) -> Callable[[], WriteCaseRequest] | None:
            writer.take(result)
            return writer.next_case()

        plan = Plan(first, lambda _: writer.close(), sent=writer.require_same_voxels, more=more, release=writer.cancel)
        return self._start(writer.nodes, plan)

    def train(
        self,
        cohort: Path,
        out: Path,
        *,
        preset: Literal["paper", "default", "fast"] = "default",
        steps: int | None = None,
        resume: bool = False,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    ) -> Task:
        """Train CmFNet on a cohort of scribbled cases, with a growing loss curve (`curve`); see `write_cases`.

        Args:
            cohort, out, preset, steps, resume, device: as in `TrainRequest`.

        Returns:
            A task whose result is the `Model`. A training that was cancelled can be resumed.
        """
        request = TrainRequest(cohort, out, preset, steps, resume, device=device)

        def taken(result: ModelInfoResult) -> Model:
            return result.model

        return self._start([], Plan(request, taken, follow=self._new_follower()))

    # --- evaluation ---

    def evaluate(
        self,
        segmentation: vtkMRMLSegmentationNode,
        mask: vtkMRMLNode,
        reference: vtkMRMLVolumeNode,
        table: LabelTable,
        *,
        tolerances_mm: tuple[float, ...] = (1.0, 2.0),
        undoable: bool = True,
    ) -> Task:
        """Measure a segmentation against a mask: DSC, ASD and NSD on the grid of a volume.

        Args:
            segmentation: what is measured.
            mask: the truth: a segmentation, or a label map volume with the values of the table.
            reference: the volume.
            table: the classes; those that one of the two has no segment of are left out.
            tolerances_mm: at which NSD is given.
            undoable: whether `undo` takes the table back by itself; else it goes with the result before it.

        Returns:
            A task whose result is a table node.

        Raises:
            CrossModalSegError: a node cannot be used, or the two have no class in common.
        """
        require_present(self.scene, segmentation, mask, reference)
        if segmentation is mask:
            raise InputError(f"'{mask.GetName()}' would be measured against itself; choose another reference mask.")
        common = _common_classes(segmentation, mask, table)
        request = EvaluateRequest(
            read_mask(segmentation, reference, common),
            read_mask(mask, reference, common),
            common,
            tuple(tolerances_mm),
        )

        def write(result: EvaluateResult) -> vtkMRMLTableNode:
            last = self._changes[-1] if self._changes else None
            with self._step() if undoable else Change(self.scene, part_of=last) as change:
                return write_agreement(self.scene, reference, result.report, change)

        return self._start([segmentation, mask, reference], Plan(request, write, may_linger=True))

    # --- parts ---

    def _start(self, nodes: Sequence[vtkMRMLNode], plan: Plan) -> Task:
        return Task(self.scene, self.client, nodes, plan)

    def _checked_images(
        self, images: Mapping[str, vtkMRMLVolumeNode]
    ) -> tuple[vtkMRMLVolumeNode, list[vtkMRMLVolumeNode]]:
        nodes = list(images.values())
        if not nodes:
            raise InputError("There is no image to segment; choose one.")
        for node in nodes:
            if node is None:
                raise InputError("An image is missing; choose one for each modality, or leave the modality out.")
        require_present(self.scene, *nodes)
        _require_different(*nodes)
        return nodes[0], nodes

    def _target(
        self,
        volume: vtkMRMLVolumeNode,
        name: str,
        into: vtkMRMLSegmentationNode | None = None,
        scribbles: vtkMRMLSegmentationNode | None = None,
    ) -> vtkMRMLSegmentationNode | None:
        """The segmentation that a result of a volume will go into; None for a new one.

        Raises:
            InputError, GeometryError: it cannot be written to, which should be known before the work.
        """
        target = into or last_result(self.scene, volume, name, scribbles)
        if target is None:
            return None
        require_writable(target)
        if target is scribbles:
            raise InputError(
                f"'{target.GetName()}' holds the strokes, which stay as they are; choose another segmentation."
            )
        affine_in(target, volume)  # whether there is a place for the result
        return target

    def _forget_moot(self) -> None:
        """What was deleted by hand, or went with its scene, cannot be taken back."""
        while self._changes and self._changes[-1].is_moot:
            self._changes.pop()

    @contextmanager
    def _step(self) -> Iterator[Change]:
        """A change that `undo` can take back, once its block has ended well."""
        with Change(self.scene) as change:
            yield change
        self._note(change)

    def _note(self, change: Change) -> None:
        # Else results of scenes that were closed would stay in memory.
        self._changes = [*(each for each in self._changes if not each.is_moot), change]
        del self._changes[:-_UNDO_STEPS]

    def _new_follower(self) -> Callable[[Mapping[str, float]], None]:
        """Draws the loss over the seconds since its first value."""
        began: float | None = None

        def follow(values: Mapping[str, float]) -> None:
            nonlocal began
            if not values:
                return
            if began is None:
                began = time.monotonic()
                self._new_curve()
            self.curve.append(time.monotonic() - began, values)

        return follow

    def _new_curve(self) -> None:
        if self._has_curve():
            self.curve.clear()
        else:
            self.curve = Curve(self.scene)

    def _remove_curve(self) -> None:
        if self._has_curve():
            self.curve.remove()

    def _has_curve(self) -> bool:
        return self.curve is not None and self.curve.is_present


def _require_different(*nodes: vtkMRMLNode) -> None:
    for number, node in enumerate(nodes):
        if node is not None and any(node is other for other in nodes[:number]):
            raise InputError(f"'{node.GetName()}' was chosen twice; choose different volumes.")


def _case(reference: vtkMRMLVolumeNode) -> str:
    """A text that stays the same for a volume, also in its saved scene, and is that of no other one."""
    # A node's id alone is given to other nodes in the next scene; an attribute is copied when a node is copied.
    if not reference.GetAttribute(_CASE_ATTRIBUTE):
        reference.SetAttribute(_CASE_ATTRIBUTE, secrets.token_hex(8))
    return f"{reference.GetAttribute(_CASE_ATTRIBUTE)}-{reference.GetID()}"


def _state(volume: vtkMRMLVolumeNode) -> tuple[object, ...]:
    """What tells a volume from what it was before: its voxels or its place changed."""
    return volume.GetID(), volume.GetImageData().GetMTime(), world_affine(volume).tobytes()


def _names(volumes: Sequence[vtkMRMLVolumeNode]) -> list[str]:
    """Different names for a reference and its targets, for messages."""
    names = [REFERENCE]
    for volume in volumes[1:]:
        name = volume.GetName() if volume is not None else ""
        numbered = (f"{name} ({number})" for number in count(2))
        names.append(name if name not in ("", *names) else next(each for each in numbered if each not in names))
    return names


def _common_classes(segmentation: vtkMRMLSegmentationNode, mask: vtkMRMLNode, table: LabelTable) -> LabelTable:
    if isinstance(mask, slicer.vtkMRMLLabelMapVolumeNode):
        return table
    here, there = named_classes(segmentation, table), named_classes(mask, table)
    labels = [label for label in table.labels if label.name in here and label.name in there]
    if not labels:
        raise LabelError(
            f"'{segmentation.GetName()}' holds {', '.join(here)}, and '{mask.GetName()}' {', '.join(there)}: they have "
            "no structure in common. Rename the segments, or choose another reference."
        )
    return LabelTable(tuple(replace(label, value=number) for number, label in enumerate(labels, start=1)))
