"""The module's functions on nodes: what the panel does, for the Python console and for scripts.

Each function that takes long waits for its result and returns nodes; the application stays alive meanwhile. With one of
the callbacks onProgress, onPreview, onLog, onDone or onError it returns a task at once instead:

    onProgress(done, total, message, values)
    onPreview(segmentation)
    onLog(sentence)
    onDone(what the function returns when it waits)
    onError(sentence)

The task has `state`, `progress`, `error`, `result`, and `cancel()`, `finish()`, `pause()`, `resume()`, `wait()`.
Images are read in the background: a task whose image is changed in these first moments fails, and says so. Who writes
to an array of voxels has to say it, as always, by `slicer.util.arrayFromVolumeModified`.
Everything that a person can do something about is raised as a CrossModalSegLib.errors.CrossModalSegError.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import qt
import slicer

from CrossModalSegPanel import installation
from CrossModalSegPanel.threads import let_threads_run

POLL_MILLISECONDS = 50
_WAIT_SECONDS = 0.05
_CALLBACKS = {
    "onProgress": "on_progress",
    "onPreview": "on_preview",
    "onLog": "on_log",
    "onDone": "on_done",
    "onError": "on_error",
}


class NodeFunctions:
    """Functions on the nodes of the application's scene.

    Attributes:
        lastResult: of the last `fit`, `segment` or `refer`: segmentations, probabilities, uncertainty, volumes in ml.
    """

    # One worker for all: panel and console share its loaded models, and what it has seen of the images.
    _workflow = None
    _timer = None
    lastResult = None

    # --- scribbles ---

    def prepareScribbles(self, volume, labels, name="Scribbles"):
        """A segmentation with a segment for each structure and one for background; strokes that are there stay.

        Args:
            volume: what is drawn on.
            labels: names, in a list or in a text with commas between, or a LabelTable, as a model has one.
            name: of a new segmentation.

        Returns:
            The segmentation.

        Raises:
            CrossModalSegError: the volume or a name cannot be used.
        """
        return self.workflow().prepare_scribbles(volume, table(labels), name)

    def autoBackground(self, volume, scribbles, labels=None, marginMm=30.0, coverage=None, seed=0, **callbacks):
        """Propose background scribbles and draw them where nothing is drawn.

        Args:
            volume: what is drawn on.
            scribbles: at least one structure is scribbled.
            labels: as in `prepareScribbles`; None takes those of the scribbles.
            marginMm: distance that stays free around the scribbled structures.
            coverage: share of the pixels of a slice to draw; None is the paper's.
            seed: of every random choice.
            callbacks: see the top of this file.

        Returns:
            The number of voxels that were drawn.

        Raises:
            CrossModalSegError: a node cannot be used, or segments overlap.
        """
        begin = partial(
            self.workflow().auto_background,
            volume,
            scribbles,
            _table_for(scribbles, labels),
            margin_mm=marginMm,
            coverage=coverage,
            seed=seed,
        )
        return self._run(begin, callbacks)

    # --- registration ---

    def register(self, fixed, moving, transform="rigid", start="auto", seed=0, name="Registration", **callbacks):
        """Align a volume to another one by a linear transform node above it.

        Args:
            fixed: stays where it is.
            moving: is aligned, with what was drawn on it.
            transform: "rigid" or "affine".
            start: "identity" trusts the positions, "geometry" lays middle on middle, "moments" centre of mass on centre
                of mass, "auto" takes the best of them and of a search over shifts and turns up to 45 degrees.
            seed: of the sampled points.
            name: of the transform.
            callbacks: see the top of this file.

        Returns:
            The transform, to adjust by hand; `undo` takes it away.

        Raises:
            CrossModalSegError: a node cannot be used.
        """
        begin = partial(self.workflow().register, fixed, moving, transform=transform, start=start, seed=seed, name=name)
        return self._run(begin, callbacks)

    # --- segmentation ---

    def fit(
        self,
        images,
        scribbles,
        labels=None,
        seconds=120.0,
        previewEvery=10.0,
        method="cmfnet",
        start=None,
        resume=True,
        saveModel=None,
        into=None,
        name=None,
        probabilities=False,
        uncertainty=False,
        show3D=False,
        device="auto",
        seed=0,
        **callbacks,
    ):
        """Segment a case from its scribbles; called again after more strokes, it goes on from the last fit.

        Args:
            images: {"ct": volume, "mr": volume}, one of them, or a volume of any kind. The result lies on the first.
            scribbles: strokes of every structure and of the background.
            labels: as in `prepareScribbles`; None takes those of the scribbles.
            seconds: for tuning; 0 stops at the first answer.
            previewEvery: seconds between answers; 0 shows none before the end.
            method: "cmfnet" tunes the shipped network on the case, "scratch" trains on the case alone, "pce" is the
                baseline with partial cross-entropy alone.
            start: model folder or name to start from; None is the prior that ships.
            resume: whether to go on from the last fit of this case.
            saveModel: folder for the fitted network; must not exist yet.
            into: segmentation for the result; None takes that of the last result of this name, or a new one.
            name: of a new segmentation; None takes the first image's.
            probabilities, uncertainty: whether volumes of them are added; see `lastResult`.
            show3D: whether surfaces are made.
            device: "auto", "cpu", "cuda", "cuda:1", "mps".
            seed: of every random choice.
            callbacks: see the top of this file.

        Returns:
            The segmentation.

        Raises:
            CrossModalSegError: a node cannot be used, or the scribbles are faulty or incomplete.
        """
        begin = partial(
            self.workflow().fit,
            _images(images),
            scribbles,
            _table_for(scribbles, labels),
            into=into,
            name=name,
            seconds=seconds,
            preview_every=previewEvery,
            method=method,
            start=_text(start),
            resume=resume,
            save_model=None if saveModel is None else Path(saveModel),
            probabilities=probabilities,
            uncertainty=uncertainty,
            show_3d=show3D,
            device=device,
            seed=seed,
        )
        return self._run(begin, callbacks, self._segmentation)

    def segment(
        self,
        images,
        model,
        into=None,
        name=None,
        probabilities=False,
        uncertainty=False,
        show3D=False,
        device="auto",
        **callbacks,
    ):
        """Segment images by a trained model, without scribbles.

        Args:
            images: volumes by modality, as the model names them, or one volume. The result lies on the first.
            model: folder or name.
            into, name, probabilities, uncertainty, show3D, device: as in `fit`.
            callbacks: see the top of this file.

        Returns:
            The segmentation.

        Raises:
            CrossModalSegError: a node or the model cannot be used.
        """
        begin = partial(
            self.workflow().segment,
            _images(images),
            _text(model),
            into=into,
            name=name,
            probabilities=probabilities,
            uncertainty=uncertainty,
            show_3d=show3D,
            device=device,
        )
        return self._run(begin, callbacks, self._segmentation)

    def refer(
        self,
        reference,
        targets,
        scribbles,
        labels=None,
        model=None,
        probabilities=False,
        pieces="large",
        tuneSeconds=0.0,
        show3D=False,
        device="auto",
        **callbacks,
    ):
        """Segment a reference and targets from scribbles on the reference.

        Called again with the same volumes after other strokes, it answers from the images' features that it kept.

        Args:
            reference: the volume that is scribbled on.
            targets: a list of other volumes, or one.
            scribbles: strokes of every structure; background is not needed.
            labels: as in `prepareScribbles`; None takes those of the scribbles.
            model: folder or name; None is the default model.
            pieces: which connected pieces of a structure stay: "all", the "large" ones, with a fifth of the voxels
                of its largest or more, or the "largest" one. Pieces under a stroke stay in any case.
            tuneSeconds: time in which a copy of the network learns from the strokes first.
            probabilities, show3D, device: as in `fit`.
            callbacks: see the top of this file.

        Returns:
            A list of segmentations: of the reference, then of each target.

        Raises:
            CrossModalSegError: a node or the model cannot be used, or the scribbles are faulty or incomplete.
        """
        begin = partial(
            self.workflow().refer,
            reference,
            [targets] if targets is None or isinstance(targets, str) or hasattr(targets, "GetID") else list(targets),
            scribbles,
            _table_for(scribbles, labels),
            model=_text(model),
            probabilities=probabilities,
            pieces=pieces,
            tune_seconds=tuneSeconds,
            show_3d=show3D,
            device=device,
        )
        return self._run(begin, callbacks, self._segmentations)

    # --- training on several cases ---

    def writeCases(self, folder, **callbacks):
        """Write all scribbled cases of the scene as a cohort: those that were fitted, or prepared in the panel.

        Args:
            folder: where to; must not exist yet, or be empty.
            callbacks: see the top of this file.

        Returns:
            The cohort file, for `train`.

        Raises:
            CrossModalSegError: there is no case, the cases do not fit together, or the folder cannot be written.
        """
        return self._run(partial(self.workflow().write_cases, Path(folder)), callbacks)

    def train(self, cohort, out, preset="default", steps=None, resume=False, device="auto", **callbacks):
        """Train CmFNet on a cohort of scribbled cases, for `segment`.

        Args:
            cohort: file (.json, .csv), or a raw folder of nnU-Net.
            out: folder of the model; must not exist yet.
            preset: "fast", "default" or "paper".
            steps: length; None is the preset's.
            resume: go on with a training that was stopped.
            device: "auto", "cpu", "cuda", "mps".
            callbacks: see the top of this file.

        Returns:
            The model.

        Raises:
            CrossModalSegError: the cohort cannot be used, or the folder is taken.
        """
        begin = partial(
            self.workflow().train, Path(cohort), Path(out), preset=preset, steps=steps, resume=resume, device=device
        )
        return self._run(begin, callbacks)

    # --- evaluation ---

    def evaluate(self, segmentation, mask, volume, labels=None, tolerancesMm=(1.0, 2.0), undoable=True, **callbacks):
        """Measure a segmentation against a mask: DSC, ASD and NSD on the grid of a volume.

        Args:
            segmentation: what is measured.
            mask: the truth: a segmentation, or a label map volume with the values of the labels.
            volume: gives the grid.
            labels: as in `prepareScribbles`; None takes those of the segmentation, in the order of its run. Structures
                that one of the two has no segment of are left out.
            tolerancesMm: at which NSD is given.
            undoable: whether `undo` takes the table back by itself; else it goes with the result before it.
            callbacks: see the top of this file.

        Returns:
            A table.

        Raises:
            CrossModalSegError: a node cannot be used, or the two have no structure in common.
        """
        begin = partial(
            self.workflow().evaluate,
            segmentation,
            mask,
            volume,
            _measured_table(segmentation, mask, labels),
            tolerances_mm=tuple(tolerancesMm),
            undoable=undoable,
        )
        return self._run(begin, callbacks)

    def undo(self) -> bool:
        """Take the last result back; whether there was one."""
        return self.workflow().undo()

    # --- devices ---

    def devices(self, **callbacks):
        """What can be computed on; each has name, description, free_bytes.

        Args:
            callbacks: see the top of this file.
        """
        from CrossModalSegLib.worker.messages import DoctorRequest

        return self._ask(DoctorRequest(), lambda result: list(result.devices), callbacks)

    # --- models ---

    def models(self, **callbacks):
        """The models that are found by name; each has name, folder, task, modalities, labels, licence, problem.

        Args:
            callbacks: see the top of this file.
        """
        return self._list_models(lambda result: list(result.models), callbacks)

    def modelsAndFolder(self, **callbacks):
        """The models, as `models` gives them, and the folder where others are installed.

        Args:
            callbacks: see the top of this file.
        """
        return self._list_models(lambda result: (list(result.models), result.folder), callbacks)

    def importModel(self, source, name=None, overwrite=False, **callbacks):
        """Install a model from a folder or a zip archive.

        Args:
            source: folder or archive.
            name: of the installed model; None takes the one in its card.
            overwrite: whether an installed model of that name may be replaced.
            callbacks: see the top of this file.

        Returns:
            The model.

        Raises:
            CrossModalSegError: it is not usable, or there is one of that name.
        """
        from CrossModalSegLib.worker.messages import ImportModelRequest

        return self._ask(ImportModelRequest(Path(source), name, overwrite), lambda result: result.model, callbacks)

    def exportModel(self, model, out, form="zip", overwrite=False, **callbacks):
        """Write a model somewhere else.

        Args:
            model: folder or name.
            out: a .zip file for "zip", which `importModel` takes again, or a folder for "bundle".
            form: "zip", or "bundle" for a MONAI bundle of a model for segmenting.
            overwrite: whether `out` may be replaced.
            callbacks: see the top of this file.

        Returns:
            The path that was written.

        Raises:
            CrossModalSegError: there is no such model, or the place exists or cannot be written.
        """
        from CrossModalSegLib.worker.messages import ExportModelRequest

        request = ExportModelRequest(_text(model), Path(out), form, overwrite)
        return self._ask(request, lambda result: result.out, callbacks)

    def deleteModel(self, name, **callbacks):
        """Delete an installed model; those that ship with the library stay.

        Args:
            name: of the model.
            callbacks: see the top of this file.

        Returns:
            The models that are left.

        Raises:
            CrossModalSegError: there is none of that name, or it ships with the library.
        """
        from CrossModalSegLib.worker.messages import DeleteModelRequest

        return self._ask(DeleteModelRequest(name), lambda result: list(result.models), callbacks)

    # --- the worker ---

    def workflow(self):
        """The functions on nodes that the library shares between panel, console and page."""
        shared = NodeFunctions._workflow
        if shared is None or shared.scene is not slicer.mrmlScene:
            from CrossModalSegLib.scene.workflow import Workflow
            from CrossModalSegLib.worker.client import WorkerClient

            self.stop()
            command = [installation.python_command(), "-m", "CrossModalSegLib", "worker"]
            NodeFunctions._workflow = Workflow(slicer.mrmlScene, WorkerClient(command))
        return NodeFunctions._workflow

    def poll(self) -> None:
        """Take what the worker has sent; never blocks."""
        if NodeFunctions._workflow is not None:
            NodeFunctions._workflow.client.poll()

    def stop(self) -> None:
        """End the worker process."""
        shared, NodeFunctions._workflow = NodeFunctions._workflow, None
        if shared is not None:
            shared.client.stop()
            shared.client.poll()

    # --- parts ---

    def _segmentation(self, result):
        self.lastResult = result
        return result.segmentation

    def _segmentations(self, result):
        self.lastResult = result
        return list(result.segmentations.values())

    def _list_models(self, taken, callbacks):
        from CrossModalSegLib.worker.messages import ModelsRequest

        return self._ask(ModelsRequest(), taken, callbacks)

    def _ask(self, request, taken, callbacks):
        """Work that no node is concerned with."""
        from CrossModalSegLib.scene.task import Plan, Task

        workflow = self.workflow()
        return self._run(partial(Task, workflow.scene, workflow.client, [], Plan(request, write=taken)), callbacks)

    def _run(self, begin, callbacks, taken=lambda result: result):
        """Begin a task, wait for it and return what is taken from its result; with callbacks, return the task."""
        unknown = sorted(set(callbacks) - set(_CALLBACKS))
        if unknown:
            raise TypeError(f"There is no option {', '.join(unknown)}; callbacks are {', '.join(_CALLBACKS)}.")
        task = begin()
        if not callbacks:
            try:
                return taken(_waited(task))
            except KeyboardInterrupt:
                task.cancel()
                self._poll_while_there_is_work()  # a preview is taken back once the worker has stopped
                raise
        for name, callback in callbacks.items():
            setattr(task, _CALLBACKS[name], callback)
        task.on_done = lambda result: _call(callbacks.get("onDone"), taken(result))
        self._poll_while_there_is_work()
        return task

    def _poll_while_there_is_work(self) -> None:
        if NodeFunctions._timer is None:
            NodeFunctions._timer = qt.QTimer()
            NodeFunctions._timer.setInterval(POLL_MILLISECONDS)
            NodeFunctions._timer.timeout.connect(_poll_shared)
        NodeFunctions._timer.start()


def table(labels):
    """A table of labels: names in a list, or in a text with commas between; a table stays as it is.

    Raises:
        CrossModalSegError: a name cannot be used.
    """
    from CrossModalSegLib.labels import LabelTable

    if isinstance(labels, LabelTable):
        return labels
    names = labels.split(",") if isinstance(labels, str) else labels
    return LabelTable.from_names([name.strip() for name in names if name.strip()])


def _table_for(segmentation, labels):
    from CrossModalSegLib.scene.classes import classes_of

    return classes_of(segmentation) if labels is None else table(labels)


def _measured_table(segmentation, mask, labels):
    """The structures of a segmentation; beside a label map those of its run, whose values they have."""
    from CrossModalSegLib.errors import LabelError
    from CrossModalSegLib.scene.classes import classes_of_result

    if labels is None and isinstance(mask, slicer.vtkMRMLLabelMapVolumeNode):
        with suppress(LabelError):  # not computed, but drawn
            return classes_of_result(segmentation)
    return _table_for(segmentation, labels)


def _images(images):
    return images if isinstance(images, dict) else {"image": images}


def _text(model):
    return None if model is None else str(model)


def _call(callback, value) -> None:
    if callback is not None:
        callback(value)


def _waited(task):
    """The result of a task; meanwhile the application goes on."""
    app = getattr(slicer, "app", None)
    while True:
        try:
            return task.wait(_WAIT_SECONDS)
        except TimeoutError:
            if app is not None:
                app.processEvents()


def _poll_shared() -> None:
    workflow = NodeFunctions._workflow
    if workflow is not None:
        let_threads_run()
        workflow.client.poll()
    if workflow is None or not workflow.client.jobs:
        NodeFunctions._timer.stop()
