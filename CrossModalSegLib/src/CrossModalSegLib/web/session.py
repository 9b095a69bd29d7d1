"""What a page does with its scene: images, classes, strokes, runs and results. Knows nothing of browsers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from CrossModalSegLib.errors import CrossModalSegError, InputError
from CrossModalSegLib.io.image_io import fits_nifti
from CrossModalSegLib.labels import UNLABELLED, Label, LabelTable
from CrossModalSegLib.placement import Placement
from CrossModalSegLib.scene.alignment import alignment
from CrossModalSegLib.scene.brush import brushed
from CrossModalSegLib.scene.classes import classes_of_result, remove_class, rename_class, with_class
from CrossModalSegLib.scene.drawing import Drawing
from CrossModalSegLib.scene.geometry import ijk_to_ras, to_lps
from CrossModalSegLib.scene.hierarchy import remove_with_item
from CrossModalSegLib.scene.results import Segmented
from CrossModalSegLib.scene.scribbles import prepare_scribbles, read_scribbles
from CrossModalSegLib.scene.segmentations import read_mask, write_segmentation
from CrossModalSegLib.scene.segments import BACKGROUND, BACKGROUND_STYLE
from CrossModalSegLib.scene.task import Task
from CrossModalSegLib.scene.volumes import add_volume, read_grid
from CrossModalSegLib.scene.workflow import Workflow
from CrossModalSegLib.volume import Volume, milliliters, place_on_grid, same_geometry
from CrossModalSegLib.worker.client import WorkerClient
from CrossModalSegLib.worker.messages import Error, Model, ModelInfoRequest, ModelsRequest, Pieces

from .surface_maker import SurfaceMaker

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLTableNode

Mode = Literal["fit", "refer"]
ROLES: dict[Mode, dict[str, str]] = {
    "fit": {"ct": "CT", "mr": "MR", "image": "Other", "none": "Not used"},
    "refer": {"reference": "Reference", "target": "Target", "none": "Not used"},
}
_CT_AIR = -300  # Hounsfield units; MR has no values below 0
_CURVE_POINTS = 400
# The paper's 0.06 % of a slice can be a single voxel of a small image; a person draws about this much.
_BACKGROUND_COVERAGE = 0.005
MASK_NAME = "Reference mask"


@dataclass(eq=False)
class Image:
    """An image of the page.

    Attributes:
        node: in the scene.
        name: as people read it.
        roles: what it is used as, by mode.
        low, high: its values, without outliers.
    """

    node: vtkMRMLScalarVolumeNode
    name: str
    roles: dict[Mode, str]
    low: float
    high: float

    @property
    def identity(self) -> str:
        """Of the node."""
        return self.node.GetID()

    @property
    def is_ct(self) -> bool:
        """Whether its values are Hounsfield units."""
        return self.low <= _CT_AIR


@dataclass(eq=False)
class Run:
    """Work that goes on, or the last that did.

    Attributes:
        title: what is done.
        mode: in which it was started.
        task: in the worker.
        can_finish: whether it can be stopped with its best answer.
        is_finishing: whether it was asked to.
        curve: (seconds since the first one, loss) so far.
        notes: what the worker wants the person to know.
    """

    title: str
    mode: Mode
    task: Task
    can_finish: bool
    is_finishing: bool = False
    began: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def follow(self, values: Mapping[str, float]) -> None:
        """Add a point to the curve."""
        loss = values.get("loss")
        if loss is not None:
            self.began = self.began or time.monotonic()
            self.curve.append((time.monotonic() - self.began, loss))
            if len(self.curve) > 2 * _CURVE_POINTS:
                self.curve = self.curve[::2]


@dataclass(frozen=True)
class Row:
    """A line of the table of results.

    Attributes:
        image: name of the image.
        structure: name of the class.
        color: RGB, 0..255.
        values: by column title.
    """

    image: str
    structure: str
    color: tuple[int, int, int]
    values: dict[str, float]


class Session:
    """One person's work.

    Attributes:
        mode: "fit" for one case, "refer" for a reference and targets.
        images: in the order of loading.
        table: the classes.
        drawing: strokes on the image that is drawn on; None where there is none.
        run: the present or last one.
        rows: of the table of results.
        results: segmentation by the id of its image.
        models: that are installed, or were named at the start.
        model_problem: why they could not be listed.
        has_looked_for_models: whether they are known by now.
        shows_surfaces: whether surfaces of results are wanted.
    """

    def __init__(
        self,
        scene: vtkMRMLScene,
        client: WorkerClient,
        *,
        labels: tuple[str, ...] = (),
        model: str | None = None,
        device: str = "auto",
        on_change: Callable[[], None] = lambda: None,
        on_error: Callable[[str], None] = lambda _: None,
        on_result: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            scene: an empty one.
            client: the way to the worker; somebody has to call its `poll`.
            labels: names of the classes; one to be renamed where empty.
            model: folder or name that is offered first.
            device: to compute on.
            on_change: called when something is to be shown anew.
            on_error: called with a sentence.
            on_result: called when segmentations came, changed or went.
        """
        self.scene, self.client, self.device = scene, client, device
        self.workflow = Workflow(scene, client)
        self.mode: Mode = "fit"
        self.images: list[Image] = []
        self.table = LabelTable.from_names(labels or ("Structure 1",))
        self._has_own_labels = bool(labels)
        self.drawing: Drawing | None = None
        self._drawings: dict[str, Drawing] = {}
        self.run: Run | None = None
        self.rows: list[Row] = []
        self.results: dict[str, vtkMRMLSegmentationNode] = {}
        self.masks: dict[str, vtkMRMLSegmentationNode] = {}
        self._measuring: dict[str, Task] = {}
        self.models: list[Model] = []
        self.model_problem: str | None = None
        self.has_looked_for_models = False
        self.shows_surfaces = True
        self._surfaces = SurfaceMaker()
        self._start_model = model
        self._on_change, self._on_error, self._on_result = on_change, on_error, on_result

    # --- images ---

    def add_image(self, volume: Volume, name: str, role: str | None = None) -> Image:
        """Take an image in; what it is used as follows from its values where it is not said.

        Raises:
            InputError: it cannot be used.
        """
        node = add_volume(self.scene, volume, name)
        sample = volume.array.ravel()[:: max(1, volume.array.size // 1_000_000)]
        low, high = (float(each) for each in np.percentile(sample, (0.5, 99.5)))
        image = Image(node, name, {}, low, high if high > low else low + 1.0)
        taken = {each.roles["fit"] for each in self.images}
        guess = "ct" if image.is_ct else "mr"
        image.roles["fit"] = role if role in ROLES["fit"] else ("none" if guess in taken else guess)
        has_reference = any(each.roles["refer"] == "reference" for each in self.images)
        image.roles["refer"] = role if role in ROLES["refer"] else ("target" if has_reference else "reference")
        if role in ("reference", "target"):
            self.mode = "refer"
        self.images.append(image)
        self._follow_images()
        return image

    def remove_image(self, identity: str) -> None:
        """Take an image out, with its strokes and results."""
        self._require_idle()
        image = self.image(identity)
        self.images.remove(image)
        drawing = self._drawings.pop(identity, None)
        nodes = [self.results.pop(identity, None), self.masks.pop(identity, None), drawing and drawing.segmentation]
        for node in nodes:
            if node is not None:
                remove_with_item(self.scene, node)
        self._stop_measuring(identity)
        self.rows = [row for row in self.rows if row.image != image.name]
        remove_with_item(self.scene, image.node)
        self._keep_reference()
        self._follow_images()
        self._on_result()

    def has_work(self, identity: str) -> bool:
        """Whether something is drawn on an image, or it was segmented."""
        drawing = self._drawings.get(identity)
        return identity in self.results or (drawing is not None and bool(drawing.counts().any()))

    def image(self, identity: str) -> Image:
        """By its id.

        Raises:
            InputError: there is none.
        """
        for image in self.images:
            if image.identity == identity:
                return image
        raise InputError("This image is not there any more.")

    def set_role(self, identity: str, role: str) -> None:
        """Say what an image is used as; another one that was the same is not used any more, but for targets.

        Where the reference becomes something else, a target takes its place.
        """
        self._require_idle()
        if role not in ROLES[self.mode]:
            raise InputError(f"An image can be used as {', '.join(ROLES[self.mode].values())}; got '{role}'.")
        image = self.image(identity)
        for other in self.images:
            if other is not image and other.roles[self.mode] == role and role not in ("target", "none"):
                other.roles[self.mode] = "target" if role == "reference" else "none"
        image.roles[self.mode] = role
        self._keep_reference(image)
        self._follow_images()

    def _keep_reference(self, but: Image | None = None) -> None:
        """Where there are targets, one is the reference: the first, or `but` where it is the only one."""
        targets = [image for image in self.images if image.roles["refer"] == "target"]
        if targets and all(image.roles["refer"] != "reference" for image in self.images):
            chosen = next((image for image in targets if image is not but), targets[0])
            chosen.roles["refer"] = "reference"

    def set_mode(self, mode: Mode) -> None:
        """Work on one case, or from a reference."""
        self._require_idle()
        if mode not in ROLES:
            raise InputError(f"There is no '{mode}'; it is fit or refer.")
        self.mode = mode
        self._follow_images()

    @property
    def used(self) -> list[Image]:
        """Images of the present mode, that which is drawn on first."""
        order = [role for role in ROLES[self.mode] if role != "none"]
        chosen = [image for image in self.images if image.roles[self.mode] in order]
        return sorted(chosen, key=lambda image: order.index(image.roles[self.mode]))

    @property
    def primary(self) -> Image | None:
        """What is drawn on."""
        used = self.used
        return used[0] if used else None

    def placement(self) -> Placement | None:
        """How the first two used images lie to each other; None where there are not two."""
        used = self.used
        return alignment(used[0].node, used[1].node) if len(used) > 1 else None

    def show_image(self, identity: str) -> None:
        """Let a target be the second image, which the views show beside the reference."""
        self._require_idle()
        image = self.image(identity)
        self.images.remove(image)
        first = next((at for at, each in enumerate(self.images) if each.roles[self.mode] == "target"), 0)
        self.images.insert(first, image)
        self._follow_images()

    def _follow_images(self) -> None:
        """Draw on the present primary image."""
        primary = self.primary
        for drawing in self._drawings.values():
            drawing.segmentation.SetDisplayVisibility(False)
        if primary is None:
            self.drawing = None
        else:
            self.drawing = self._drawing_on(primary)
            self.drawing.segmentation.SetDisplayVisibility(True)
        self._on_change()

    def _drawing_on(self, image: Image) -> Drawing:
        drawing = self._drawings.get(image.identity)
        if drawing is None:
            node = prepare_scribbles(self.scene, image.node, self.table, f"{image.name} scribbles")
            drawing = self._drawings[image.identity] = Drawing(node, image.node, self.table)
        return drawing

    # --- classes ---

    def add_class(self, name: str) -> None:
        """One more class."""
        self._require_idle()
        self._set_table(with_class(self.table, name))

    def rename_class(self, old: str, new: str) -> None:
        """Another name."""
        self._require_idle()
        if old != new:
            self._set_table(rename_class(self._scribbles, self.table, old, new))

    def remove_class(self, name: str) -> None:
        """One class less, with its strokes."""
        self._require_idle()
        gone = self.table.label_by_name(name).value
        values = {value: value - (value > gone) for value in range(1, len(self.table) + 1) if value != gone}
        self._set_table(remove_class(self._scribbles, self.table, name), values)

    @property
    def _scribbles(self) -> list[vtkMRMLSegmentationNode]:
        return [drawing.segmentation for drawing in self._drawings.values()]

    def _set_table(self, table: LabelTable, values: Mapping[int, int] | None = None) -> None:
        """Take another table; `values` are those of the classes before by those now, the same where it is None."""
        values = {label.value: label.value for label in self.table.labels} if values is None else values
        self.table, self._has_own_labels = table, True
        for drawing in self._drawings.values():
            prepare_scribbles(self.scene, drawing.reference, table, into=drawing.segmentation)
            drawing.follow(table, values)
        self._follow_images()

    # --- strokes ---

    def stroke(self, value: int, start: np.ndarray, end: np.ndarray, normal: np.ndarray, radius_mm: float) -> int:
        """Draw a piece of a stroke in a slice; all points RAS mm.

        Args:
            value: 0 for background, 1..K, 255 to erase.
            start, end, normal, radius_mm: as in `scene.brush.brushed`.

        Returns:
            How many voxels changed.
        """
        if self.drawing is None:
            return 0
        if not 0 <= value <= len(self.table) and value != UNLABELLED:
            raise InputError(f"There is no class {value}.")
        return self.drawing.draw(value, brushed(self.drawing.reference, start, end, normal, radius_mm))

    def end_stroke(self) -> None:
        """Close the stroke."""
        if self.drawing is not None and self.drawing.end_stroke():
            self._on_change()

    def undo_stroke(self) -> None:
        """Take the last stroke back."""
        if self.drawing is not None:
            self.drawing.undo()
            self._on_change()

    def redo_stroke(self) -> None:
        """Draw it again."""
        if self.drawing is not None:
            self.drawing.redo()
            self._on_change()

    def clear_strokes(self) -> None:
        """Erase all; one step of undo."""
        if self.drawing is not None:
            self.drawing.clear()
            self._on_change()

    def counts(self) -> dict[str, int]:
        """Voxels drawn, by class, and "Background"."""
        counts = self.drawing.counts() if self.drawing is not None else np.zeros(UNLABELLED + 1, dtype=int)
        return {label.name: int(counts[label.value]) for label in self.table.labels} | {BACKGROUND: int(counts[0])}

    def missing(self) -> list[str]:
        """What has to be drawn before a run."""
        counts = self.counts()
        if self.mode == "refer":
            del counts[BACKGROUND]
        return [name for name, count in counts.items() if not count]

    # --- runs ---

    @property
    def is_busy(self) -> bool:
        """Whether work goes on."""
        return self.run is not None and not self.run.task.has_ended

    def auto_background(self) -> None:
        """Propose background strokes; one step of undo."""
        primary, drawing = self._ready_primary(), self.drawing
        task = self.workflow.auto_background(
            primary.node, drawing.segmentation, self.table, coverage=_BACKGROUND_COVERAGE, undoable=False
        )
        self._start("Proposing background", task, lambda _: drawing.adopt())

    def register(self) -> None:
        """Move the second image onto the first."""
        self._ready_primary()
        first, second = self.used[:2]
        task = self.workflow.register(first.node, second.node)
        self._start(f"Aligning {second.name}", task, lambda _: self._on_result())

    def fit(self, seconds: float) -> None:
        """Segment the case from its strokes."""
        self._ready_primary()
        images = {image.roles["fit"]: image.node for image in self.used}
        if "image" in images and len(images) > 1:
            raise InputError("Fit takes CT and MR, or a single image. Set the others to 'Not used'.")
        self._remove_surfaces()
        task = self.workflow.fit(
            images,
            self.drawing.segmentation,
            self.table,
            seconds=seconds,
            preview_every=max(5.0, seconds / 12),
            device=self.device,
        )
        self._start("Fitting", task, self._segmented, can_finish=True)

    def segment(self, model: str) -> None:
        """Segment the case by a trained model."""
        self._ready_primary()
        images = {image.roles["fit"]: image.node for image in self.used}
        self._remove_surfaces()
        task = self.workflow.segment(images, model, device=self.device)
        self._start("Segmenting", task, self._segmented)

    def refer(self, model: str, pieces: Pieces = "large", tune_seconds: float = 0.0) -> None:
        """Segment reference and targets from the strokes.

        Args:
            model: folder or name; "" leaves the choice to the worker.
            pieces: which connected pieces of a structure stay.
            tune_seconds: in which a copy of the network learns from the strokes first.
        """
        self._ready_primary()
        reference, *targets = self.used
        self._remove_surfaces()
        task = self.workflow.refer(
            reference.node,
            [target.node for target in targets],
            self.drawing.segmentation,
            self.table,
            model=model or None,
            pieces=pieces,
            tune_seconds=tune_seconds,
            device=self.device,
        )
        self._start("Referring", task, self._segmented)

    def follow_surfaces(self) -> None:
        """Show surfaces that are ready, and begin with those that are missing; to be called again and again."""
        if not self.is_busy and self._surfaces.follow(self._with_surfaces()):
            self._on_result()
            self._on_change()

    def cancel(self) -> None:
        """Stop and drop the present run."""
        if self.is_busy:
            self.run.task.cancel()

    def finish(self) -> None:
        """Stop the present fit with its best answer."""
        if self.is_busy:
            self.run.is_finishing = True
            self.run.task.finish()
            self._on_change()

    def pause_or_resume(self) -> None:
        """Let the present run stand still, or go on."""
        if self.is_busy:
            (self.run.task.resume if self.run.task.state == "paused" else self.run.task.pause)()

    def _ready_primary(self) -> Image:
        self._require_idle()
        if self.primary is None:
            raise InputError("Load an image first, and say what it is used as.")
        self.drawing.end_stroke()
        return self.primary

    def _require_idle(self) -> None:
        if self.is_busy:
            raise InputError(f"{self.run.title} is still going on. Wait for it, or cancel it first.")

    def _start(self, title: str, task: Task, done: Callable[[Any], None], can_finish: bool = False) -> None:
        run, reference = Run(title, self.mode, task, can_finish), self.primary.identity
        self.run, was_measuring = run, self.is_measuring
        self._stop_measuring()  # it may take minutes, for which the run would wait

        def progress(_done: int, _total: int, _message: str, values: Mapping[str, float]) -> None:
            run.follow(values)
            self._on_change()

        def preview(node: vtkMRMLSegmentationNode) -> None:
            self.results[reference] = node
            self._on_result()

        def finished(result: Any) -> None:
            done(result)
            if was_measuring and not self._measuring:
                self.evaluate()
            self._on_change()

        def failed(sentence: str) -> None:
            self._forget_gone()
            if was_measuring:
                self.evaluate()
            if task.state != "cancelled":
                self._on_error(sentence)
            self._on_change()

        def note(sentence: str) -> None:
            # What is told again and again would hide all else: only the last ones are shown.
            run.notes = [*(each for each in run.notes if each != sentence), sentence]
            self._on_change()

        task.on_progress, task.on_preview, task.on_done, task.on_error, task.on_log = (
            progress,
            preview,
            finished,
            failed,
            note,
        )
        self._on_change()

    # --- results ---

    def _segmented(self, result: Segmented) -> None:
        self.results |= result.segmentations
        table = getattr(result.answer, "table", self.table)
        volumes = result.answer.milliliters
        names = [self.image(identity).name for identity in result.segmentations]
        is_several = bool(volumes) and isinstance(next(iter(volumes.values())), dict)
        by_image = dict(zip(names, volumes.values(), strict=True)) if is_several else {names[0]: volumes}
        self.rows = [
            Row(image, label.name, label.color, {"ml": found[label.name]})
            for image, found in by_image.items()
            for label in table.labels
            if label.name in found
        ]
        self._on_result()
        self.evaluate()

    @property
    def result(self) -> vtkMRMLSegmentationNode | None:
        """Of the primary image."""
        return self.results.get(self.primary.identity) if self.primary is not None else None

    def undo_result(self) -> None:
        """Take the last result back."""
        self._require_idle()
        self._remove_surfaces()
        if self.workflow.undo():
            self._forget_gone()
            self._describe_results()
            if self.drawing is not None:
                self.drawing.refresh()
            self._on_result()
            self._on_change()

    def _describe_results(self) -> None:
        """Tell of the results that are there again."""
        self.rows = []
        for identity, node in self.results.items():
            image = self.image(identity)
            table = classes_of_result(node)
            mask = read_mask(node, image.node, table)
            found = milliliters(mask, table)
            self.rows += [Row(image.name, label.name, label.color, {"ml": found[label.name]}) for label in table.labels]
        self.evaluate()

    @property
    def surface_state(self) -> Literal["none", "making", "reduced", "full"]:
        """Of the surfaces of the results."""
        if self._surfaces.is_making:
            return "making"
        shown = self._with_surfaces()
        return "reduced" if self._surfaces.is_reduced(shown) else "full" if shown else "none"

    def _with_surfaces(self) -> list[vtkMRMLSegmentationNode]:
        return [*self.results.values()] if self.shows_surfaces else []

    def _remove_surfaces(self) -> None:
        """Before voxels change: where there are surfaces, whoever writes voxels makes new ones at once, and waits."""
        for node in self.results.values():
            self._surfaces.remove(node)

    def _forget_gone(self) -> None:
        """A cancelled first run, or undo, took segmentations away."""
        self.results = {key: node for key, node in self.results.items() if self.scene.IsNodePresent(node)}
        self._on_result()

    # --- truth ---

    def add_mask(self, volume: Volume, table: LabelTable | None, name: str) -> None:
        """Take a true mask in, to measure against; on the image whose grid it has.

        Args:
            volume, table: as `read_segmentation` reads them.
            name: of the mask, for messages.

        Raises:
            InputError: it fits no image or not the classes.
        """
        self._require_idle()
        if table is None:
            table = self._table_for(int(volume.array.max()), name)
        image, placed = self._image_under(volume, name)
        node = write_segmentation(self.scene, placed, table, image.node, f"{MASK_NAME} of {image.name}")
        node.SetDisplayVisibility(False)
        former = self.masks.get(image.identity)
        self.masks[image.identity] = node
        if former is not None and former is not node:
            remove_with_item(self.scene, former)
        if not self._has_own_labels and not self._is_drawn:
            self._rename_all(table)
        self.evaluate()
        self._on_change()

    def _table_for(self, classes: int, name: str) -> LabelTable:
        if classes <= len(self.table):
            return self.table
        if self._has_own_labels or self._is_drawn:
            raise InputError(
                f"'{name}' holds {classes} classes, but the list of structures only {len(self.table)}. Add the others "
                "first, in the order of the mask's values."
            )
        return LabelTable.from_names([f"Structure {number}" for number in range(1, classes + 1)])

    @property
    def _is_drawn(self) -> bool:
        """Whether there are strokes, also on images that are not drawn on now."""
        return any(drawing.counts().any() for drawing in self._drawings.values())

    def _rename_all(self, table: LabelTable) -> None:
        """Take another table, where nothing is drawn."""
        for drawing in self._drawings.values():
            remove_with_item(self.scene, drawing.segmentation)
        self._drawings.clear()
        self._set_table(table)

    def set_classes(self, table: LabelTable) -> None:
        """Take another table; strokes are gone."""
        self._require_idle()
        self._rename_all(table)

    def _image_under(self, volume: Volume, name: str) -> tuple[Image, Volume]:
        for image in (*self.used, *self.images):
            grid = read_grid(image.node)
            placed = volume if same_geometry(volume, grid) else place_on_grid(volume, grid)
            if placed is not None:
                return image, grid.with_array(placed.array)
        raise InputError(f"'{name}' has the grid of none of the images. Load the image that it belongs to first.")

    def evaluate(self) -> None:
        """Measure a result against its mask, where there are both."""
        self._stop_measuring()
        for identity, mask in self.masks.items():
            if identity in self.results:
                image, node = self.image(identity), self.results[identity]
                try:
                    task = self.workflow.evaluate(node, mask, image.node, classes_of_result(node), undoable=False)
                except CrossModalSegError as error:
                    self._on_error(str(error))
                else:
                    self._measuring[identity] = task
                    self._follow_measuring(task, image)

    @property
    def is_measuring(self) -> bool:
        """Whether a result is being measured."""
        return any(not task.has_ended for task in self._measuring.values())

    def _stop_measuring(self, *identities: str) -> None:
        """Of these images, or of all: nobody waits for the measures of what is replaced or gone."""
        for identity in identities or tuple(self._measuring):
            task = self._measuring.pop(identity, None)
            if task is not None:
                task.cancel()

    def _follow_measuring(self, task: Task, image: Image) -> None:
        # Of a result that was replaced or taken back since, nobody wants the measures, nor to hear that there are none.
        def is_wanted() -> bool:
            return self._measuring.get(image.identity) is task

        def done(table: vtkMRMLTableNode) -> None:
            self._on_change()
            if not is_wanted():
                return
            found = _table_rows(table)
            self.rows = [
                Row(row.image, row.structure, row.color, {**row.values, **found.get(row.structure, {})})
                if row.image == image.name
                else row
                for row in self.rows
            ]

        def failed(sentence: str) -> None:
            if is_wanted():
                self._on_error(sentence)
            self._on_change()

        task.on_done, task.on_error = done, failed

    # --- models ---

    def look_for_models(self) -> None:
        """Ask the worker which there are."""

        def add(models: list[Model]) -> None:
            self.models += [each for each in models if each.problem is None and each.task is not None]
            self._on_change()

        def fail(error: Error) -> None:
            self.model_problem = error.message
            self._on_change()

        if self._start_model is not None:
            self.client.submit(
                ModelInfoRequest(self._start_model),
                on_done=lambda result: add([_by_folder(result.model)]),
                on_error=lambda error: (fail(error), self._on_error(error.message)),
            )

        def installed(models: list[Model]) -> None:
            self.has_looked_for_models = True
            add(models)

        self.client.submit(ModelsRequest(), on_done=lambda result: installed(list(result.models)), on_error=fail)

    @property
    def may_choose_model(self) -> bool:
        """Whether the worker may choose among the models that ship by the names of the structures: none was named."""
        return self._start_model is None

    def models_for(self, task: str) -> list[Model]:
        """Those for "segment" or "refer"."""
        return [model for model in self.models if model.task == task]

    # --- files ---

    def result_labels(self, identity: str) -> tuple[Volume, LabelTable]:
        """The segmentation of an image on the image's own grid, as it was in its file, and its classes.

        Raises:
            InputError: there is none.
        """
        if identity not in self.results:
            raise InputError("There is no segmentation of this image.")
        image = self.image(identity)
        table = classes_of_result(self.results[identity])
        labels = read_mask(self.results[identity], image.node, table)
        return _own(labels, image), table

    def stroke_labels(self) -> tuple[Volume, LabelTable]:
        """The strokes, with background as a class, as `fit`, `refer` and Slicer take them from a .seg.nrrd.

        Raises:
            InputError: there is none.
        """
        if self.drawing is None or not any(self.counts().values()):
            raise InputError("Nothing is drawn yet.")
        strokes = read_scribbles(self.drawing.segmentation, self.drawing.reference, self.table)
        background = Label(len(self.table) + 1, BACKGROUND, BACKGROUND_STYLE.color, BACKGROUND_STYLE.terminology)
        array = np.where(strokes.array == UNLABELLED, np.uint8(0), strokes.array)
        array[strokes.array == 0] = background.value
        painted = strokes.with_array(array)
        return _own(painted, self.primary), LabelTable((*self.table.labels, background))

    def can_be_nifti(self, identity: str) -> bool:
        """Whether NIfTI can hold the grid of an image."""
        node = self.image(identity).node
        return fits_nifti(Volume(read_grid(node).array, to_lps(ijk_to_ras(node))))


def _own(labels: Volume, image: Image) -> Volume:
    """A label map in the world, where the image lies without the transforms above it: as in its file."""
    return Volume(labels.array, to_lps(ijk_to_ras(image.node)))


def _by_folder(model: Model) -> Model:
    """A model that was named by its folder is asked for by it, too."""
    return replace(model, name=str(model.folder))


def _table_rows(node: vtkMRMLTableNode) -> dict[str, dict[str, float]]:
    """Numbers of a table of measurements by structure and column title."""
    table = node.GetTable()
    columns = [table.GetColumn(index) for index in range(table.GetNumberOfColumns())]
    texts = {column.GetName(): column for column in columns if not column.IsNumeric()}
    numbers = [column for column in columns if column.IsNumeric() and not column.GetName().startswith("Volume")]
    return {
        texts["Structure"].GetValue(row): {column.GetName(): column.GetValue(row) for column in numbers}
        for row in range(table.GetNumberOfRows())
    }
