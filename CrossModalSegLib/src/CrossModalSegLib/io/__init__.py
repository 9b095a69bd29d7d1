"""Files: images, DICOM series, segmentations."""

from __future__ import annotations

from .image_io import read_volume, write_volume
from .segmentation_io import read_mask_segments, read_scribble_segments, read_segmentation, write_segmentation

__all__ = [
    "read_mask_segments",
    "read_scribble_segments",
    "read_segmentation",
    "read_volume",
    "write_segmentation",
    "write_volume",
]
