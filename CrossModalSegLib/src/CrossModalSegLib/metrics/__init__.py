"""Measures of segmentations: overlap, surface distances in mm."""

from __future__ import annotations

from .folder import CaseMetrics, FolderReport, evaluate_files, evaluate_folder
from .segmentation import LabelMetrics, MetricsReport, evaluate_segmentation

__all__ = [
    "CaseMetrics",
    "FolderReport",
    "LabelMetrics",
    "MetricsReport",
    "evaluate_files",
    "evaluate_folder",
    "evaluate_segmentation",
]
