"""Segmenting from scribbles with a prompted, class-agnostic CmFNet: one class after the other, then all together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from CrossModalSegLib.fitting.class_view import ClassView, class_view
from CrossModalSegLib.fitting.prompts import prompt_maps
from CrossModalSegLib.fitting.regions import absent_slices, scribbled_slices, slice_gap_mm
from CrossModalSegLib.inference.predictor import mixed_precision
from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.models.cmfnet import CmFNet
from CrossModalSegLib.progress import CancelToken

MODALITIES = 2
# Two views of a class, whose answers are averaged. Where scribbled slices are close, both are fine: thin structures,
# such as the heart's muscle or the pancreas, are lost in coarse ones. Where they are far apart, both are coarse, and so
# reach from one scribbled slice to the next.
CLOSE_SCALES, FAR_SCALES = (0.5, 0.8), (0.8, 1.3)
SCALE_GAPS_MM = (20.0, 40.0)
# What is longer than so many times its thickness, such as a cord, a vessel or many small lesions, counts as that long,
# for the same reasons.
CLOSE_THICKNESSES, FAR_THICKNESSES = 2.0, 8.0
ABSENT_LOGIT = -12.0
# An answer contradicts the strokes in a slice from these shares on: of the class's that it misses, of others' it takes.
MOST_MISSED, MOST_TAKEN = 0.1, 0.02
# A slice alone takes as long as a stack of 16.
MOST_ALONE = 20
# Thinner slices are hardly shifted: where an answer contradicts strokes there, it missed what is small, and a slice
# alone is answered worse.
SHIFTED_SLICES_MM = 4.0


def view_scales(scribbles: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
    """Scales of the views of all classes, by how far it is from one scribbled slice to the next.

    Args:
        scribbles: (k, j, i) uint8, internal convention.
        spacing: mm, (k, j, i).
    """
    gap = _gap_to_bridge(scribbles, spacing)
    return [float(np.interp(gap, SCALE_GAPS_MM, ends)) for ends in zip(CLOSE_SCALES, FAR_SCALES, strict=True)]


def longest_views(
    scribbles: np.ndarray, spacing: tuple[float, float, float], thicknesses: Mapping[int, float]
) -> dict[int, float]:
    """How long, in mm, classes of these thicknesses (mm) may count for their views, by class; see `view_scales`."""
    gap = _gap_to_bridge(scribbles, spacing)
    most = float(np.interp(gap, SCALE_GAPS_MM, (CLOSE_THICKNESSES, FAR_THICKNESSES)))
    return {value: most * thickness for value, thickness in thicknesses.items()}


def _gap_to_bridge(scribbles: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """mm from one scribbled slice to the next; without end from a single one, if there are other slices."""
    is_lone = len(scribbles) > 1 and len(scribbled_slices(scribbles)) == 1
    return np.inf if is_lone else slice_gap_mm(scribbles, spacing)


def two_images(images: np.ndarray) -> np.ndarray:
    """(2, k, j, i): a single image goes into both branches."""
    return images if len(images) == MODALITIES else np.repeat(images[:1], MODALITIES, axis=0)


def class_logits(
    network: CmFNet,
    images: np.ndarray,
    scribbles: np.ndarray,
    value: int,
    spacing: tuple[float, float, float],
    device: torch.device,
    scales: Sequence[float],
    longest_mm: float = np.inf,
    is_thin: bool = False,
) -> np.ndarray:
    """How much each voxel looks like the scribbled class.

    Where the answer contradicts the strokes in a thick slice, the slice is answered alone: such slices may be shifted
    against each other, as breath-holds leave them, and a network that reads volumes looks for the class where the next
    slice has it.

    Args:
        network: A prompted CmFNet with two classes.
        images: (2, k, j, i) float32 in [0, 1].
        scribbles: (k, j, i) uint8, internal convention.
        value: The class.
        spacing: mm, (k, j, i).
        device: Where the network is.
        scales: Of the views whose answers are averaged.
        longest_mm: A class whose strokes span more counts as that long.
        is_thin: Whether it is looked at in halved voxels.

    Returns:
        (k, j, i) float32, the log-odds of the class; `ABSENT_LOGIT` outside of its box.
    """

    def answer(slices: slice) -> np.ndarray:
        case = (images[:, slices], scribbles[slices], value, spacing)
        # Of a small class, coarse views have the voxels of fine ones: those of the image.
        views = [class_view(*case, scale, longest_mm, is_thin) for scale in scales]
        views = list({view.scribbles.shape: view for view in views}.values())
        logits = np.full(scribbles[slices].shape, ABSENT_LOGIT, np.float32)
        logits[views[0].box] = np.mean([view.restore(_log_odds(network, view, device)) for view in views], axis=0)
        return logits

    logits = answer(slice(None))
    may_be_shifted = spacing[0] >= SHIFTED_SLICES_MM
    for k in contradicted_slices(logits, scribbles, value) if may_be_shifted else ():
        alone = slice(k, k + 1)
        logits[alone] = answer(alone)
    return logits


def contradicted_slices(logits: np.ndarray, scribbles: np.ndarray, value: int) -> list[int]:
    """Slices with strokes of a class, and of others, that an answer does not agree with; the worst `MOST_ALONE`.

    Args:
        logits: (k, j, i), the log-odds of the class.
        scribbles: (k, j, i) uint8, internal convention.
        value: The class.
    """
    own = scribbles == value
    others = (scribbles != UNLABELLED) & ~own
    wrong: dict[int, float] = {}
    for k in np.flatnonzero(own.any(axis=(1, 2)) & others.any(axis=(1, 2))):
        missed, taken = np.mean(logits[k][own[k]] <= 0), np.mean(logits[k][others[k]] > 0)
        if missed > MOST_MISSED or taken > MOST_TAKEN:
            wrong[int(k)] = max(missed / MOST_MISSED, taken / MOST_TAKEN)
    return sorted(wrong, key=wrong.__getitem__, reverse=True)[:MOST_ALONE]


def pad_to_multiple(array: np.ndarray, divisor: int, fill: int | None = None) -> np.ndarray:
    """The last three axes enlarged at their ends to multiples of `divisor`, by repeating the edge or with `fill`.

    The last axis gets two multiples at least: instance normalisation needs more than one voxel at the coarsest stage.
    """
    sizes = [-(-n // divisor) * divisor for n in array.shape[-3:]]
    sizes[-1] = max(sizes[-1], 2 * divisor)
    added = [(0, size - n) for size, n in zip(sizes, array.shape[-3:], strict=True)]
    widths = [(0, 0)] * (array.ndim - 3) + added
    return np.pad(array, widths, mode="edge") if fill is None else np.pad(array, widths, constant_values=fill)


def prompted_input(view: ClassView, shown: np.ndarray, divisor: int) -> np.ndarray:
    """What a prompted network reads: images and prompt maps (2 + PROMPT_CHANNELS, k, j, i), padded to the divisor.

    Padding repeats the image but not the scribbles: repeated strokes would claim that every slice there was scribbled.

    Args:
        view: Images, class and spacing.
        shown: (k, j, i) uint8, the scribbles to show.
    """
    images = pad_to_multiple(view.images, divisor)
    scribbles = pad_to_multiple(shown, divisor, UNLABELLED)
    return np.concatenate([images, prompt_maps(images, scribbles, view.value, view.spacing)])


@torch.inference_mode()
def _log_odds(network: CmFNet, view: ClassView, device: torch.device) -> np.ndarray:
    """Class 1 minus class 0 logits (k, j, i) of a view."""
    x = torch.from_numpy(prompted_input(view, view.scribbles, network.divisor))[None].to(device)
    network.eval()
    with mixed_precision(device):
        logits = network.segment(x)
    odds = (logits[0, 1] - logits[0, 0]).float().cpu().numpy()
    return np.ascontiguousarray(odds[tuple(slice(n) for n in view.scribbles.shape)])


def segment_prompted(
    network: CmFNet,
    images: np.ndarray,
    scribbles: np.ndarray,
    num_classes: int,
    spacing: tuple[float, float, float],
    device: torch.device,
    cancel: CancelToken | None = None,
    thicknesses: Mapping[int, float] | None = None,
    thin: Collection[int] = (),
) -> np.ndarray:
    """Probabilities of all classes from their scribbles.

    Args:
        num_classes: K + 1. Classes without a scribble get the probability of something absent.
        thicknesses: mm by class, of those that are known.
        thin: Classes that are looked at in halved voxels.

    Returns:
        (K + 1, k, j, i) float32; the classes' log-odds against a background of 0, through a softmax.
    """
    logits = np.zeros((num_classes, *scribbles.shape), np.float32)
    images, scales, absent = two_images(images), view_scales(scribbles, spacing), absent_slices(scribbles)
    longest = longest_views(scribbles, spacing, thicknesses or {})
    for value in range(1, num_classes):
        if cancel is not None:
            cancel.raise_if_cancelled()
        if (scribbles == value).any():
            looks = (scales, longest.get(value, np.inf), value in thin)
            logits[value] = class_logits(network, images, scribbles, value, spacing, device, *looks)
            logits[value, absent.get(value, [])] = ABSENT_LOGIT
        else:
            logits[value] = ABSENT_LOGIT
    return torch.from_numpy(logits).softmax(dim=0).numpy()
