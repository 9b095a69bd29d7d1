"""A 3D image and the place of its voxels in the patient.

Arrays are (k, j, i) = (slice, row, column); the world is LPS millimetres, as in SimpleITK and DICOM.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk

from .errors import GeometryError, InputError, LabelError
from .labels import UNLABELLED, LabelTable

Interpolation = Literal["linear", "nearest"]

_INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}
_EDGE = 1e-4  # of a voxel: a point this close outside the grid still belongs to its outermost voxel
_TIE = 1e-6  # of a voxel: centres half-way between two voxels go the same way, whatever the affines' rounding errors


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on a grid; the affine may be oblique, anisotropic, left-handed or sheared (a tilted gantry).

    Attributes:
        array: (k, j, i), any real number type.
        affine: (4, 4) float64, takes a voxel index (i, j, k, 1) to LPS mm. Read-only.

    Raises:
        InputError: the array is not 3D, is empty, or does not hold real numbers.
        GeometryError: the affine is not a finite, invertible 4 by 4 matrix.
    """

    array: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", _checked_array(self.array))
        object.__setattr__(self, "affine", _checked_affine(self.affine))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (k, j, i)."""
        return self.array.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (k, j, i), mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(k), float(j), float(i)

    @property
    def origin(self) -> tuple[float, float, float]:
        """LPS position of the first voxel's centre, mm."""
        x, y, z = self.affine[:3, 3]
        return float(x), float(y), float(z)

    @property
    def direction(self) -> np.ndarray:
        """(3, 3) unit vectors, LPS; columns are the i, j and k axes."""
        return self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def with_array(self, array: np.ndarray) -> Volume:
        """Put other values on the same grid.

        Args:
            array: (k, j, i), of this volume's shape.

        Raises:
            InputError: the shape differs.
        """
        if np.shape(array) != self.shape:
            raise InputError(f"An array of shape {self.shape} was expected for this grid, got {np.shape(array)}.")
        return Volume(array, self.affine)


def volume_from_itk(image: sitk.Image) -> Volume:
    """Take over a 3D SimpleITK image with one value per voxel.

    Raises:
        InputError: the image is not 3D or has several values per voxel.
        GeometryError: its grid is not usable.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            "A 3D image with one value per voxel was expected, got "
            f"{image.GetDimension()}D with {image.GetNumberOfComponentsPerPixel()}."
        )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), affine)


def volume_to_itk(volume: Volume) -> sitk.Image:
    """Give the volume as a SimpleITK image; bool becomes uint8, float16 becomes float32."""
    image = sitk.GetImageFromArray(_itk_array(volume.array), isVector=False)
    _set_grid(image, volume)
    return image


def same_geometry(a: Volume, b: Volume, tolerance_mm: float = 1e-2) -> bool:
    """Whether two volumes share a grid: the same shape, and all eight corners of the grid within the tolerance.

    Args:
        a: one volume.
        b: another volume.
        tolerance_mm: largest distance between corresponding corner voxels, mm.
    """
    if a.shape != b.shape:
        return False
    distances = np.linalg.norm(_corners(a) - _corners(b), axis=1)
    return bool(np.all(distances <= tolerance_mm))


def require_same_geometry(**named: Volume) -> None:
    """Check that all volumes share the grid of the first.

    Args:
        named: volumes by the names that the error shall use.

    Raises:
        GeometryError: one differs; the message names both and what to do.
    """
    (first_name, first), *others = named.items()
    for name, other in others:
        if not same_geometry(first, other):
            raise GeometryError(
                f"'{first_name}' and '{name}' should share one grid but do not: '{first_name}' has {describe(first)}; "
                f"'{name}' has {describe(other)}. Resample one first (some commands do so with --resample)."
            )


def milliliters(labels: Volume, table: LabelTable) -> dict[str, float]:
    """The volume of each class in ml, by name."""
    # A slice at a time: as it counts, numpy holds 8 bytes for each voxel.
    counts = sum(np.bincount(part.ravel(), minlength=256) for part in labels.array)
    return {label.name: float(counts[label.value]) * labels.voxel_ml for label in table.labels}


def describe(volume: Volume) -> str:
    """The grid in words: shape and spacing (k, j, i), origin and axes (LPS)."""
    spacing = ", ".join(f"{value:.4g}" for value in volume.spacing)
    origin = ", ".join(f"{value:.2f}" for value in volume.origin)
    axes = "; ".join(", ".join(f"{value:.3f}" for value in axis) for axis in volume.direction.T)
    return f"shape {volume.shape}, spacing ({spacing}) mm, origin ({origin}) mm and axes i, j, k ({axes})"


def resample_like(
    volume: Volume, like: Volume, interpolation: Interpolation = "linear", fill: float | None = None
) -> Volume:
    """Sample a volume on the grid of another.

    Args:
        volume: what to sample. Its dtype is kept; interpolated integers are rounded.
        like: the grid.
        interpolation: "linear" for images, "nearest" for label maps (for scribbles see `resample_scribbles`).
        fill: value outside of `volume`; None takes its minimum.

    Returns:
        A volume on the grid of `like`.

    Raises:
        InputError: the interpolation is unknown, or the dtype cannot hold `fill`.
    """
    return _resample(volume, like.affine, like.shape, interpolation, fill)


def resample_orthogonal(volume: Volume, interpolation: Interpolation = "linear") -> Volume:
    """Sample a sheared volume (a tilted gantry) on the smallest box around it with orthogonal axes.

    The i and j axes, and the spacing between slices along their normal, stay. A volume that is orthogonal comes back
    as it is.

    Args:
        volume: what to sample; its dtype is kept, and its minimum fills the new corners.
        interpolation: "linear" or "nearest".
    """
    target = _orthogonal_axes(volume)
    indices = (_corners(volume) - volume.affine[:3, 3]) @ np.linalg.inv(target).T
    low = np.floor(indices.min(axis=0) + 1e-6)
    high = np.ceil(indices.max(axis=0) - 1e-6)
    affine = np.eye(4)
    affine[:3, :3] = target
    affine[:3, 3] = volume.affine[:3, 3] + target @ low
    shape = tuple(int(n) for n in (high - low + 1)[::-1])
    if shape == volume.shape and np.allclose(affine, volume.affine, atol=1e-9):
        return volume
    return _resample(volume, affine, shape, interpolation, None)


def resample_scribbles(volume: Volume, like: Volume) -> Volume:
    """Move scribbles to another grid without losing a stroke.

    The centre of every scribbled voxel goes to the nearest voxel of `like`, as long as it lies inside of `like`. Where
    several land on one voxel, a class wins over background, and among classes the smallest value wins.

    Args:
        volume: uint8 scribbles (0 background, 1..K classes, 255 unlabelled).
        like: the grid.

    Returns:
        uint8 scribbles on the grid of `like`.

    Raises:
        LabelError: the values are not uint8.
        GeometryError: there are scribbles, but none lies inside of `like`.
    """
    if volume.array.dtype != np.uint8:
        raise LabelError(f"Scribbles should be uint8 in the internal convention, got {volume.array.dtype}.")
    if same_geometry(volume, like, tolerance_mm=1e-6):
        return like.with_array(volume.array.copy())
    rank_of, value_of = _scribble_ranks()
    ranks = np.full(like.shape, rank_of[UNLABELLED], dtype=np.uint16)
    to_like = np.linalg.inv(like.affine) @ volume.affine
    scribbled = landed = 0
    for k, plane in enumerate(volume.array):
        j, i = np.nonzero(plane != UNLABELLED)
        target, inside = nearest_index(to_like, np.stack([i, j, np.full_like(i, k)]), like.shape)
        np.minimum.at(ranks, tuple(target[::-1]), rank_of[plane[j[inside], i[inside]]])
        scribbled += len(i)
        landed += int(inside.sum())
    if scribbled and not landed:
        raise GeometryError(
            f"No scribble lies inside of the image: the scribbles have {describe(volume)}; "
            f"the image has {describe(like)}. Were they drawn on another image?"
        )
    return like.with_array(value_of[ranks])


def nearest_index(
    to_like: np.ndarray, index_ijk: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Which voxel of another grid each voxel centre falls into.

    Args:
        to_like: (4, 4) from an index (i, j, k, 1) to one of the other grid.
        index_ijk: (3, N).
        shape: (k, j, i) of the other grid.

    Returns:
        Indices (3, M) in (i, j, k) of the other grid, and which of the given ones lie inside of it: boolean (N,), M
        of them true.
    """
    position = to_like[:3, :3] @ index_ijk + to_like[:3, 3:]
    size = np.asarray(shape[::-1])[:, None]
    inside = np.all((position >= -0.5 - _EDGE) & (position <= size - 0.5 + _EDGE), axis=0)
    nearest = np.floor(position[:, inside] + 0.5 + _TIE).astype(np.int64)
    return np.clip(nearest, 0, size - 1), inside


def place_on_grid(volume: Volume, like: Volume, fill: float = 0, tolerance_mm: float = 1e-2) -> Volume | None:
    """Copy a cropped volume back to where it was cut out, voxel for voxel.

    Segment editors store the box around the painted voxels only; this undoes it exactly.

    Args:
        volume: what to copy; voxels outside of `like` that differ from `fill` make the answer None.
        like: the full grid.
        fill: value where `volume` says nothing.
        tolerance_mm: largest distance between corresponding voxel centres, mm.

    Returns:
        A volume on the grid of `like` with the dtype of `volume`, or None when the voxels do not coincide.
    """
    shift_ijk = np.linalg.solve(like.affine, volume.affine[:, 3])[:3]
    shift = np.floor(shift_ijk + 0.5).astype(np.int64)[::-1]
    moved = like.affine.copy()
    moved[:3, 3] += like.affine[:3, :3] @ shift[::-1]
    if not same_geometry(volume, Volume(volume.array, moved), tolerance_mm):
        return None
    low = np.clip(shift, 0, like.shape)
    high = np.clip(shift + volume.shape, 0, like.shape)
    source = tuple(slice(max(0, a - s), max(0, b - s)) for a, b, s in zip(low, high, shift, strict=True))
    if np.count_nonzero(volume.array != fill) != np.count_nonzero(volume.array[source] != fill):
        return None
    array = np.full(like.shape, fill, dtype=volume.array.dtype)
    array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = volume.array[source]
    return like.with_array(array)


def _checked_array(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 3:
        raise InputError(f"A 3D array (k, j, i) was expected, got {array.ndim} dimensions {array.shape}.")
    if array.size == 0:
        raise InputError(f"A volume needs at least one voxel along each axis, got the shape {array.shape}.")
    if array.dtype.kind not in "biuf":
        raise InputError(f"A volume holds real numbers, got the type {array.dtype}.")
    return array


def _checked_affine(affine: np.ndarray) -> np.ndarray:
    try:
        affine = np.array(affine, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GeometryError("A 4 by 4 matrix of numbers was expected as affine.") from error
    if affine.shape != (4, 4):
        raise GeometryError(f"A 4 by 4 matrix was expected as affine, got the shape {affine.shape}.")
    if not np.all(np.isfinite(affine)):
        raise GeometryError("The affine holds NaN or infinite numbers; the image has no usable place in space.")
    if not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise GeometryError(f"The last row of an affine should be (0, 0, 0, 1), got {tuple(affine[3].tolist())}.")
    with np.errstate(all="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        volume_of_axes = np.linalg.det(affine[:3, :3] / spacing)
    if not np.all(np.isfinite(spacing)) or np.any(spacing <= 0) or not abs(volume_of_axes) > 1e-6:
        raise GeometryError(
            "The affine is not invertible: a spacing is zero, or two axes point the same way; "
            f"the spacings (i, j, k) are {tuple(spacing.tolist())} mm."
        )
    affine.setflags(write=False)
    return affine


def _itk_array(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        return array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _set_grid(image: sitk.Image, volume: Volume) -> None:
    image.SetSpacing(volume.spacing[::-1])
    image.SetOrigin(volume.origin)
    image.SetDirection(_itk_direction(volume))


def _itk_direction(volume: Volume) -> list[float]:
    """The axes, row by row, without components so small that ITK's inversion of the matrix stumbles over them."""
    direction = volume.direction
    return np.where(np.abs(direction) < 1e-15, 0.0, direction).ravel().tolist()


def _corners(volume: Volume) -> np.ndarray:
    """(8, 3) LPS mm, the centres of the corner voxels."""
    k, j, i = (n - 1 for n in volume.shape)
    indices = np.array(list(itertools.product((0, i), (0, j), (0, k))), dtype=np.float64)
    return indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def _orthogonal_axes(volume: Volume) -> np.ndarray:
    """(3, 3) axes of the same voxel size with i kept, j made orthogonal to it, and k along their normal."""
    i, j, k = volume.affine[:3, :3].T
    i_unit = i / np.linalg.norm(i)
    j = j - i_unit * (i_unit @ j)
    normal = np.cross(i_unit, j / np.linalg.norm(j))
    return np.stack([i, j, normal * (normal @ k)], axis=1)


def _resample(
    volume: Volume,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    interpolation: Interpolation,
    fill: float | None,
) -> Volume:
    if interpolation not in _INTERPOLATORS:
        raise InputError(f"The interpolation should be 'linear' or 'nearest', got '{interpolation}'.")
    grid = Volume(np.broadcast_to(np.uint8(0), shape), affine)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(shape[::-1])
    resampler.SetOutputSpacing(grid.spacing[::-1])
    resampler.SetOutputOrigin(grid.origin)
    resampler.SetOutputDirection(_itk_direction(grid))
    resampler.SetInterpolator(_INTERPOLATORS[interpolation])
    resampler.SetDefaultPixelValue(_fill_value(volume.array, fill))
    rounds = interpolation == "linear" and volume.array.dtype.kind in "biu"
    if rounds:  # ITK would cut the fraction off
        resampler.SetOutputPixelType(sitk.sitkFloat32 if volume.array.dtype.itemsize <= 2 else sitk.sitkFloat64)
    array = sitk.GetArrayFromImage(resampler.Execute(volume_to_itk(volume)))
    if rounds:
        np.rint(array, out=array)
    return grid.with_array(array.astype(volume.array.dtype, copy=False))


def _fill_value(array: np.ndarray, fill: float | None) -> float:
    if fill is None:
        return float(array.min())
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        if not limits.min <= fill <= limits.max:
            raise InputError(f"The fill value {fill} does not fit the type {array.dtype}; convert the image first.")
    return float(fill)


def _scribble_ranks() -> tuple[np.ndarray, np.ndarray]:
    """Rank of each value, smaller wins, and the value of each rank: classes, then background, then unlabelled."""
    rank_of = np.arange(256, dtype=np.uint16)
    rank_of[0] = 256
    rank_of[UNLABELLED] = 257
    value_of = np.zeros(258, dtype=np.uint8)
    value_of[rank_of] = np.arange(256, dtype=np.uint8)
    return rank_of, value_of
