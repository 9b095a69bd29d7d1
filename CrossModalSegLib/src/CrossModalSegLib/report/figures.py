"""Figures without matplotlib's global state: no pyplot, no change of settings, no display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..output import atomic_path


def new_figure(width: float, height: float, background: str) -> Figure:
    """An empty figure (inches) that is drawn in memory."""
    figure = Figure(figsize=(width, height), facecolor=background)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: str | Path, dpi: int) -> None:
    """Write a figure as PNG, complete or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None})
