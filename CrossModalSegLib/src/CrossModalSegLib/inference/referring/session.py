"""Scribble on one image, get the organs in it and in all others; a new stroke is answered from features that are kept.

A session belongs to one thread; its cancel tokens may be set from any. Nothing about a volume is recomputed as long as
it plays a part in the session: new strokes, other organs and other names cost only sampling and decoding.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch

from CrossModalSegLib.data.referring.pairing import Matching, overlap, reference_positions
from CrossModalSegLib.data.referring.slices import SliceFrame, SlicePreprocessing
from CrossModalSegLib.errors import GeometryError, InputError, ModelError
from CrossModalSegLib.fitting.working_case import honour_scribbles
from CrossModalSegLib.inference.model_folder import LoadedModel
from CrossModalSegLib.inference.predictor import Precision, usable_precision
from CrossModalSegLib.inference.referring.answers import SliceAnswers
from CrossModalSegLib.inference.referring.features import FEATURE_BYTES, FeatureStore
from CrossModalSegLib.inference.referring.pieces import Pieces
from CrossModalSegLib.inference.referring.reference_tokens import (
    ReferenceTokens,
    reference_tokens,
    slice_batches,
)
from CrossModalSegLib.inference.referring.referred_volume import ReferredVolume, refer_volume
from CrossModalSegLib.inference.referring.results import (
    ReferResult,
    VolumeReport,
    VolumeResult,
    answered_labels,
    slices_with,
)
from CrossModalSegLib.inference.referring.tuning import TuningReport, tune
from CrossModalSegLib.inference.referring.unseen import unseen_organs, warn_of_unseen
from CrossModalSegLib.labels import UNLABELLED, LabelTable, check_scribbles
from CrossModalSegLib.models.crossmr import CrossMR, Features, choose
from CrossModalSegLib.progress import CancelToken, Progress, SilentProgress
from CrossModalSegLib.volume import Volume, describe, milliliters, same_geometry

REFERENCE = "reference"
SliceMatching = Literal["auto", "position", "order"]

# A GPU is idle with single slices; on a CPU larger batches than these would only let a wish to stop wait.
ENCODED_AT_ONCE = {"cuda": 8}
DECODED_AT_ONCE = {"cuda": 16, "cpu": 8}
# Slices of each organ in which it is asked whether the network sees it.
SEEN_IN_SLICES = 3
# Beyond this angle two stacks of slices show different planes of the body.
MOST_DEGREES = 45.0


@dataclass(frozen=True)
class ReferOptions:
    """How strokes are answered.

    Attributes:
        probabilities: Whether the result holds the probabilities.
        slices: Which scribbled slices serve a target slice: the nearest by "position" in the patient, or by relative
            "order"; "auto" takes the position where the volumes overlap in space.
        reference_slices: How many scribbled slices serve a target slice, of each organ.
        pieces: Which connected pieces of an organ stay: "all", the "large" ones, with a fifth of the voxels of its
            largest or more, or the "largest" one. Pieces under a stroke stay in any case.
        tune_seconds: Time to tune a copy of the network on the strokes first; see `tuning`.
    """

    probabilities: bool = False
    slices: SliceMatching = "auto"
    reference_slices: int = 2
    pieces: Pieces = "large"
    tune_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.slices not in ("auto", "position", "order"):
            raise InputError(f'Slices are matched by "auto", "position" or "order"; got "{self.slices}".')
        if self.reference_slices < 1:
            raise InputError(f"At least one scribbled slice serves a target slice; got {self.reference_slices}.")
        if self.pieces not in get_args(Pieces):
            raise InputError(f'Of an organ\'s pieces "all", the "large" or the "largest" stay; got "{self.pieces}".')
        if not 0 <= self.tune_seconds < np.inf:
            raise InputError(f"The seconds of tuning must be 0 or more and finite; got {self.tune_seconds}.")


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is asked of every volume."""

    network: CrossMR
    tokens: ReferenceTokens
    scribbles: Volume
    table: LabelTable
    options: ReferOptions


class ReferSession:
    """A reference and its targets, whose image features are kept.

    Features are known by the content of their image: the same image under another name, or as reference and target, is
    encoded once. They are freed when no part of the session needs them any more.
    """

    def __init__(
        self,
        model: LoadedModel,
        device: torch.device | str | None = None,
        precision: Precision = "bf16",
        feature_bytes: int = FEATURE_BYTES,
    ) -> None:
        """An empty session.

        Args:
            model: A CrossMR model.
            device: Where to compute; the model is moved there. None takes where it is.
            precision: "bf16" computes with bfloat16 where the device does so natively. Features are kept in bfloat16 in
                either case.
            feature_bytes: What kept features may take; the default of 2 GB holds more than five volumes of 40 slices at
                256 by 256. Slices beyond are encoded anew with each answer.

        Raises:
            ModelError: The model is not a CrossMR.
        """
        self._network = _crossmr(model)
        self.device = model.device if device is None else torch.device(device)
        self._network.to(self.device).eval()
        self._precision = usable_precision(precision, self.device)
        self._card = model.card
        self._prep = model.card.slices or SlicePreprocessing(image_size=self._network.config.image_size)
        self._store = FeatureStore(self._encode, feature_bytes)
        self._reference: ReferredVolume | None = None
        self._targets: dict[str, ReferredVolume] = {}

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, in the order in which they were added."""
        return tuple(self._targets)

    @property
    def kept_bytes(self) -> int:
        """What the kept features take."""
        return self._store.bytes

    @property
    def encoded_slices(self) -> int:
        """How many slices were encoded so far."""
        return self._store.encoded

    def set_images(
        self,
        reference: Volume,
        targets: Mapping[str, Volume],
        slices: SliceMatching = "auto",
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        """Look at a reference and its targets, which take the place of all before; only if each of them can be used.

        Args:
            reference: The image that is scribbled on.
            targets: Images that shall be segmented, by name.
            slices: How their slices will be matched; see `ReferOptions`.
            progress: Called with each slice of each image.
            cancel: Looked at before each slice.

        Raises:
            InputError: As of `set_reference` and `add_target`, before any image is looked at.
            GeometryError: A target does not fit to the reference, see `refer`; also before.
            Cancelled: The session is as it was before. Slices that were looked at are remembered until the next change.
        """
        progress, cancel = progress or SilentProgress(), cancel or CancelToken()
        first = refer_volume(REFERENCE, reference, self._prep)
        others: dict[str, ReferredVolume] = {}
        for name, image in targets.items():
            cancel.raise_if_cancelled()
            others[name] = self._prepared_target(name, image, first)
            _positions(others[name], first, slices)
        needed = {volume.key for volume in (first, *others.values())}
        for volume in (first, *others.values()):
            self._store.add(volume, self._at_once, progress, cancel, needed)
        self._reference, self._targets = first, others
        self._free()

    def set_reference(self, image: Volume, progress: Progress | None = None, cancel: CancelToken | None = None) -> None:
        """Look at the image that is scribbled on; it takes the place of the one before.

        Targets that lie askew are turned like it, in steps of 90 degrees; those that this turns are looked at again.

        Args:
            image: CT or MR of any contrast.
            progress: Called with each slice.
            cancel: Looked at before each slice.

        Raises:
            InputError: The image is constant, not finite, or its axial slices are smaller than 16 by 16 voxels.
            Cancelled: The session is as it was before.
        """
        reference = refer_volume(REFERENCE, image, self._prep)
        targets = {name: volume.turned_like(reference) for name, volume in self._targets.items()}
        turned = [volume for name, volume in targets.items() if volume is not self._targets[name]]
        self._look_at([reference, *turned], [*targets.values(), reference], progress, cancel)
        self._reference, self._targets = reference, targets
        self._free()

    def add_target(
        self, name: str, image: Volume, progress: Progress | None = None, cancel: CancelToken | None = None
    ) -> None:
        """Look at an image that shall be segmented; it takes the place of a target of the same name.

        Args:
            name: Of the results for it.
            image, progress, cancel: As in `set_reference`.

        Raises:
            InputError: The name is "reference", or the image is not usable.
            Cancelled: The session is as it was before.
        """
        target = self._prepared_target(name, image, self._reference)
        volumes = self._volumes() | {name: target}
        self._look_at([target], volumes.values(), progress, cancel)
        self._targets[name] = target
        self._free()

    def remove_target(self, name: str) -> None:
        """Forget a target and free what only it needed.

        Raises:
            InputError: There is none of that name.
        """
        if name not in self._targets:
            raise InputError(f"There is no target '{name}'; the targets are {', '.join(self._targets) or 'none'}.")
        del self._targets[name]
        self._free()

    def refer(
        self,
        scribbles: Volume,
        table: LabelTable,
        *,
        probabilities: bool = False,
        slices: SliceMatching = "auto",
        reference_slices: int = 2,
        pieces: Pieces = "large",
        tune_seconds: float = 0.0,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> ReferResult:
        """Segment the reference and all targets.

        Args:
            scribbles: uint8 on the reference's own grid: 0 background, 1..K, 255 not drawn. Every organ needs a stroke
                on one axial slice or more; background strokes are optional. On the reference, scribbled voxels keep
                what was drawn, and slices with a stroke on an organ show it.
            table: The organs 1..K: any, in any order. A warning names those that the model was not trained on.
            probabilities, slices, reference_slices, pieces, tune_seconds: See `ReferOptions`.
            progress: Called with whole seconds of the tuning, then with each slice of all volumes.
            cancel: Looked at between slices, of which a few are answered at once.

        Raises:
            InputError: There is no reference, or an option is out of range.
            GeometryError: The scribbles are not on the reference's grid, a target has slices of another plane, or
                matching by position is asked for where volumes do not overlap.
            LabelError: An organ has no stroke, or a stroke has no organ.
            Cancelled: The cancel token was set.
        """
        began = time.perf_counter()
        options = ReferOptions(probabilities, slices, reference_slices, pieces, tune_seconds)
        cancel, progress = cancel or CancelToken(), progress or SilentProgress()
        reference = self._checked_reference(scribbles, table)
        positions = {name: _positions(volume, reference, slices) for name, volume in self._volumes().items()}
        unseen = unseen_organs(table, self._card.labels)
        warn_of_unseen(unseen, self._card, tune_seconds > 0)
        network, tuning = self._tuned(reference, scribbles, table, options, progress, cancel)
        with torch.no_grad(), self._autocast():
            masks = _stroke_masks(reference, scribbles, table)
            tokens = reference_tokens(network, self._store, reference, masks, cancel)
            asked = _Asked(network, tokens, scribbles, table, options)
            count = _Counter(progress, sum(volume.count for volume in self._volumes().values()))
            results = {
                name: self._answer(asked, volume, *positions[name], count, cancel)
                for name, volume in self._volumes().items()
            }
        return ReferResult(
            segmentations={name: result.labels for name, result in results.items()},
            probabilities={name: result.probabilities for name, result in results.items() if probabilities},
            reports={name: result.report for name, result in results.items()},
            tuning=tuning,
            unseen=unseen,
            seconds=time.perf_counter() - began,
        )

    def _prepared_target(self, name: str, image: Volume, reference: ReferredVolume | None) -> ReferredVolume:
        if name == REFERENCE:
            raise InputError(f"'{REFERENCE}' is the name of the reference itself; give the target another one.")
        target = refer_volume(name, image, self._prep)
        return target if reference is None else target.turned_like(reference)

    def seen(
        self, image: Volume, scribbles: Volume, table: LabelTable, cancel: CancelToken | None = None
    ) -> dict[str, float]:
        """How much of its strokes the network itself marks as an organ, 0 to 1, by name.

        Only the slices with the most strokes on an organ are looked at. Known organs and others are far apart here.

        Args:
            image: A reference; it may become that of the session, which then knows these slices already.
            scribbles, table: As in `refer`, and checked by `check_strokes`.
            cancel: Looked at before each slice.

        Raises:
            InputError: The image is not usable.
            Cancelled: The cancel token was set.
        """
        reference, cancel = refer_volume(REFERENCE, image, self._prep), cancel or CancelToken()
        drawn = reference.frame.to_axial(scribbles.array)
        shown = _most_drawn(drawn, table)
        masks = _stroke_masks(reference, scribbles, table)
        masks[np.setdiff1d(np.arange(reference.count), shown)] = False
        needed = {volume.key for volume in self._volumes().values()}
        answers = SliceAnswers(reference, len(table), self._card.least_presence, False, self.device)
        with torch.no_grad(), self._autocast():
            self._store.add(reference, self._at_once, SilentProgress(), cancel, needed, shown)
            tokens = reference_tokens(self._network, self._store, reference, masks, cancel)
            for index in tokens.slices:
                cancel.raise_if_cancelled()
                merged = tokens.merged(tokens.select(index, ReferOptions.reference_slices))
                answers.put([index], *choose(self._network.decode_last(self._store.get(reference, [index]), merged)))
        strokes = {label.name: drawn[shown] == label.value for label in table.labels}
        return {
            label.name: float((answers.labels[shown][strokes[label.name]] == label.value).mean())
            for label in table.labels
        }

    def _volumes(self) -> dict[str, ReferredVolume]:
        return ({} if self._reference is None else {REFERENCE: self._reference}) | self._targets

    def _look_at(
        self,
        volumes: Iterable[ReferredVolume],
        needed: Iterable[ReferredVolume],
        progress: Progress | None,
        cancel: CancelToken | None,
    ) -> None:
        """Encode some volumes; features of those that are not needed make room where there is none."""
        keys = {volume.key for volume in needed}
        try:
            for volume in volumes:
                self._store.add(volume, self._at_once, progress or SilentProgress(), cancel or CancelToken(), keys)
        except BaseException:
            self._free()
            raise

    @property
    def _at_once(self) -> int:
        return ENCODED_AT_ONCE.get(self.device.type, 1)

    def _free(self) -> None:
        self._store.retain({volume.key for volume in self._volumes().values()})

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16")

    def _encode(self, volume: ReferredVolume, indices: Sequence[int]) -> Features:
        # In batches of one size, since rounding depends on it.
        batches = [indices[start : start + self._at_once] for start in range(0, len(indices), self._at_once)]
        return Features.cat([self._encoded(volume, batch) for batch in batches])

    def _encoded(self, volume: ReferredVolume, indices: Sequence[int]) -> Features:
        windows = torch.from_numpy(volume.windows(indices, self._network.config.context))
        with torch.no_grad(), self._autocast():
            return self._network.encode(windows.to(self.device))

    def _checked_reference(self, scribbles: Volume, table: LabelTable) -> ReferredVolume:
        if self._reference is None:
            raise InputError("There is no reference yet: set one before you refer to it.")
        check_strokes(self._reference.frame.source.volume(), scribbles, table)
        return self._reference

    def _tuned(
        self,
        reference: ReferredVolume,
        scribbles: Volume,
        table: LabelTable,
        options: ReferOptions,
        progress: Progress,
        cancel: CancelToken,
    ) -> tuple[CrossMR, TuningReport | None]:
        """The network that answers."""
        if options.tune_seconds == 0:
            return self._network, None
        drawn = reference.frame.scribbles_to_canvas(scribbles)
        features = partial(self._store.get, reference)
        seconds, organs = options.tune_seconds, len(table)
        return tune(self._network, features, drawn, organs, seconds, self._autocast, progress, cancel)

    def _answer(
        self,
        asked: _Asked,
        volume: ReferredVolume,
        positions: np.ndarray,
        matching: Matching,
        count: _Counter,
        cancel: CancelToken,
    ) -> VolumeResult:
        began = time.perf_counter()
        table, options = asked.table, asked.options
        is_reference = volume is self._reference
        shown = asked.tokens.shown(volume.count) if is_reference else None
        least = self._card.least_presence
        answers = SliceAnswers(volume, len(table), least, options.probabilities, self.device, shown)
        selections = [asked.tokens.select(position, options.reference_slices) for position in positions]
        for selection, indices in slice_batches(selections, DECODED_AT_ONCE.get(self.device.type, 1)):
            cancel.raise_if_cancelled()
            features = self._store.get(volume, indices)
            tokens = asked.tokens.merged(selection).expand(len(indices))
            answers.put(indices, *choose(asked.network.decode_last(features, tokens)))
            count.advance(len(indices))
        drawn = asked.scribbles.array if is_reference else None
        answers.drop_small_pieces(options.pieces, drawn)
        answers.add_certain()
        array = answered_labels(answers, drawn)
        labels = Volume(array, volume.frame.source.affine)
        probabilities = answers.source_probabilities()
        if probabilities is not None and drawn is not None:
            honour_scribbles(probabilities, drawn)
        found = slices_with(volume.frame.to_axial(array), table)
        report = VolumeReport(
            matching=matching,
            overlap=overlap(volume.frame, self._reference.frame),
            slices=volume.count,
            present=tuple(name for name, slices in found.items() if slices),
            slices_with=found,
            milliliters=milliliters(labels, table),
            seconds=time.perf_counter() - began,
        )
        return VolumeResult(labels, probabilities, report)


def check_strokes(reference: Volume, scribbles: Volume, table: LabelTable) -> None:
    """Refuse what `ReferSession.refer` could not answer.

    Raises:
        GeometryError: The scribbles are not on the reference's grid.
        LabelError: An organ has no stroke, or a stroke has no organ.
    """
    if not same_geometry(reference, scribbles):
        raise GeometryError(
            f"The scribbles should be on the grid of the reference but are not: it has {describe(reference)}; "
            f"the scribbles have {describe(scribbles)}. Draw them on the reference itself."
        )
    check_scribbles(scribbles.array, table, needs_background=False)


def refer_volumes(
    model: LoadedModel,
    reference: Volume,
    scribbles: Volume,
    targets: Mapping[str, Volume],
    table: LabelTable,
    *,
    device: torch.device | str | None = None,
    precision: Precision = "bf16",
    slices: SliceMatching = "auto",
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    **options: object,
) -> ReferResult:
    """Segment a reference and its targets in one call; a `ReferSession` answers further strokes sooner.

    Args:
        model, device, precision: As in `ReferSession`.
        reference, scribbles, table: As in `ReferSession.refer`.
        targets: Images by name.
        slices, progress, cancel: As in `ReferSession`.
        options: Further ones of `ReferSession.refer`.

    Raises:
        CrossModalSegError: As in `ReferSession`.
    """
    session = ReferSession(model, device, precision)
    check_strokes(reference, scribbles, table)
    session.set_images(reference, targets, slices, progress, cancel)
    return session.refer(scribbles, table, slices=slices, progress=progress, cancel=cancel, **options)


class _Counter:
    """Reports every slice of all volumes."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def advance(self, slices: int) -> None:
        for _ in range(slices):
            self._done += 1
            self._progress(self._done, self._total, "segment")


def _crossmr(model: LoadedModel) -> CrossMR:
    if isinstance(model.network, CrossMR):
        return model.network
    raise ModelError(
        f"The model {model.card.name} is a {model.card.architecture} network, which cannot compare a scribbled image "
        "with others. Choose a model that `crossmodalseg train crossmr` made."
    )


def _positions(
    volume: ReferredVolume, reference: ReferredVolume, matching: SliceMatching
) -> tuple[np.ndarray, Matching]:
    angle = _degrees_between(volume.frame, reference.frame)
    if angle > MOST_DEGREES:
        raise GeometryError(
            f"The slices of '{volume.name}' are turned by {angle:.0f} degrees against those of the reference, so they "
            "show organs in another plane. Refer to images of the same plane: axial to axial, short axis to short axis."
        )
    if matching == "position" and overlap(volume.frame, reference.frame) == 0:
        raise GeometryError(
            f"'{volume.name}' and the reference do not overlap in patient space, so their slices cannot be matched by "
            'position. Match them by "order", or leave the choice to "auto".'
        )
    return reference_positions(volume.frame, reference.frame, None if matching == "auto" else matching)


def _degrees_between(one: SliceFrame, other: SliceFrame) -> float:
    """The angle between the slices of two volumes, 0 to 90."""
    # Normals, which the axes of sheared slices are not.
    normals = (np.cross(frame.axial.affine[:3, 0], frame.axial.affine[:3, 1]) for frame in (one, other))
    first, second = (normal / np.linalg.norm(normal) for normal in normals)
    return float(np.degrees(np.arccos(min(1.0, abs(float(first @ second))))))


def _most_drawn(drawn: np.ndarray, table: LabelTable) -> list[int]:
    """The few slices of (S, rows, columns) with the most voxels drawn on each organ, ascending."""
    chosen: set[int] = set()
    for label in table.labels:
        counts = (drawn == label.value).sum(axis=(1, 2))
        most = np.argsort(-counts, kind="stable")[:SEEN_IN_SLICES]
        chosen |= {int(index) for index in most if counts[index]}
    return sorted(chosen)


def _stroke_masks(reference: ReferredVolume, scribbles: Volume, table: LabelTable) -> np.ndarray:
    """(S, K, H, W) bool; each organ by itself, so that none is lost where strokes meet on a coarser canvas."""
    masks = []
    for label in table.labels:
        alone = np.where(scribbles.array == label.value, np.uint8(label.value), np.uint8(UNLABELLED))
        masks.append(reference.frame.scribbles_to_canvas(scribbles.with_array(alone)) == label.value)
    return np.stack(masks, axis=1)
