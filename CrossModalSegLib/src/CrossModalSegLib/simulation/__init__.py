"""Simulated registered CT and MR with known anatomy: heads with a tumour, abdomens, and MR from real CT."""

from __future__ import annotations

from .case import SimulatedCase, simulate_case
from .options import AnatomyName, SimulationOptions
from .real_ct import MrFromCtOptions, mr_from_ct
from .sequences import SEQUENCES, Contrast, tissue_signal
from .simulated_cohort import case_scribbles, case_seeds, simulate_cohort
from .tissues import TISSUES, Tissue

__all__ = [
    "SEQUENCES",
    "TISSUES",
    "AnatomyName",
    "Contrast",
    "MrFromCtOptions",
    "SimulatedCase",
    "SimulationOptions",
    "Tissue",
    "case_scribbles",
    "case_seeds",
    "mr_from_ct",
    "simulate_case",
    "simulate_cohort",
    "tissue_signal",
]
