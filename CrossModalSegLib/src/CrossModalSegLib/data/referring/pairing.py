"""Which reference slices belong to a target slice: by relative order, or by position in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from CrossModalSegLib.data.referring.slices import SliceFrame
from CrossModalSegLib.errors import InputError

Matching = Literal["position", "order"]

# Points along each in-plane axis at which two volumes are compared.
_PROBES = 9


def by_order(target_count: int, reference_count: int) -> np.ndarray:
    """The reference slice of each target slice by its share of the way through the stack, as in the paper.

    Ends meet ends, the order is kept, and as long as the reference is not shorter no slice is used twice.

    Args:
        target_count: Slices of the target, T.
        reference_count: Slices of the reference, R.

    Returns:
        (T,) float64, 0..R - 1: round it for one slice. A single target slice meets the middle of the reference.

    Raises:
        InputError: A stack has no slice.
    """
    if target_count < 1 or reference_count < 1:
        raise InputError(f"Both volumes need a slice to be paired; got {target_count} and {reference_count}.")
    if target_count == 1:
        return np.array([(reference_count - 1) / 2])
    return np.arange(target_count) * ((reference_count - 1) / (target_count - 1))


def by_position(target: SliceFrame, reference: SliceFrame) -> np.ndarray:
    """The position in the patient of each target slice's middle, in slices of the reference.

    Returns:
        (T,) float64; below 0 and above R - 1 beyond the reference.
    """
    return _reference_index(target.centres, reference)[:, 2]


def overlap(target: SliceFrame, reference: SliceFrame) -> float:
    """The share of the target that lies within the reference in patient space, or of the reference within the target.

    Returns:
        The larger of both, 0 to 1, over evenly spread points of each.
    """
    return max(_share_inside(target, reference), _share_inside(reference, target))


def reference_positions(
    target: SliceFrame, reference: SliceFrame, matching: Matching | None = None
) -> tuple[np.ndarray, Matching]:
    """Where the target slices lie among the slices of the reference.

    The order of slices is that in the patient: of slices that lie askew, the axes of two volumes may point against each
    other.

    Args:
        target: T slices.
        reference: R slices.
        matching: "position" or "order"; None takes the position where both volumes overlap in space.

    Returns:
        (T,) float64 positions in slices of the reference, and the matching that was used.
    """
    if matching is None:
        matching = "position" if overlap(target, reference) > 0 else "order"
    if matching == "position":
        return by_position(target, reference), "position"
    positions = by_order(target.count, reference.count)
    return (positions[::-1] if _are_opposed(target, reference) else positions), "order"


def nearest_slices(position: float, scribbled: Sequence[int], limit: int | None = None) -> tuple[int, ...]:
    """The scribbled slices of the reference, those nearest to a position first; of equally near ones the lower first.

    Args:
        position: In slices of the reference.
        scribbled: Indices of slices with scribbles.
        limit: At most so many; None gives all.

    Raises:
        InputError: No slice is scribbled, or the limit is below 1.
    """
    if not len(scribbled):
        raise InputError("The reference has no scribbled slice to compare with; scribble on at least one.")
    if limit is not None and limit < 1:
        raise InputError(f"At least one scribbled slice is used; got a limit of {limit}.")
    ordered = sorted(int(k) for k in scribbled)
    return tuple(sorted(ordered, key=lambda k: abs(k - position))[:limit])


def _are_opposed(one: SliceFrame, other: SliceFrame) -> bool:
    """Whether the slices of two volumes are counted in opposite directions."""
    first, second = (frame.axial.affine[:3, 2] for frame in (one, other))
    return bool(first @ second < 0)


def _reference_index(points: np.ndarray, frame: SliceFrame) -> np.ndarray:
    """LPS points (n, 3) as axial voxel indices (i, j, k), (n, 3)."""
    inverse = np.linalg.inv(frame.axial.affine)
    return points @ inverse[:3, :3].T + inverse[:3, 3]


def _share_inside(inner: SliceFrame, outer: SliceFrame) -> float:
    size = np.array(inner.axial.shape[::-1])
    axes = [np.linspace(0, n - 1, min(n, _PROBES)) for n in size]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = index @ inner.axial.affine[:3, :3].T + inner.axial.affine[:3, 3]
    found = _reference_index(points, outer)
    limits = np.array(outer.axial.shape[::-1]) - 0.5
    return float(((found >= -0.5) & (found <= limits)).all(axis=1).mean())
