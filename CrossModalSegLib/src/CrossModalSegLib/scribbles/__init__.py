"""Simulated scribbles: one method a file, all deterministic by a numpy generator."""

from __future__ import annotations

from .background import background_from_scribbles, erosion_background
from .body import body_mask
from .contour import contour_scribbles
from .freeform import SEEM_BRUSH, SMALL_BRUSH, FreeformBrush, freeform_scribbles
from .random_walk import random_walk_scribbles
from .simulate import BACKGROUNDS, SCRIBBLE_METHODS, coverage, scribbled_slices, simulate_scribbles
from .skeleton import skeleton_scribbles
from .word import word_scribbles

__all__ = [
    "BACKGROUNDS",
    "SCRIBBLE_METHODS",
    "SEEM_BRUSH",
    "SMALL_BRUSH",
    "FreeformBrush",
    "background_from_scribbles",
    "body_mask",
    "contour_scribbles",
    "coverage",
    "erosion_background",
    "freeform_scribbles",
    "random_walk_scribbles",
    "scribbled_slices",
    "simulate_scribbles",
    "skeleton_scribbles",
    "word_scribbles",
]
