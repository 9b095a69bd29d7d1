"""The course of a training or a fit as a picture: loss terms, and the DSC of the validations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import new_figure, save_png

TOTAL = "total"
NOT_TERMS = ("step", "seconds", "learning_rate")
PAPER, INK, GRID = "white", "#202124", "#e3e5e8"
# Okabe and Ito's colours, which people with colour blindness can tell apart.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#5f6368")
# A fit and a training have more terms than there are colours.
STYLES = tuple((color, line) for line in ("-", (0, (4, 1.5)), (0, (1, 1.5))) for color in COLORS)

_DPI = 120
_SMOOTH_FROM = 60
_LOG_FROM_RATIO = 30.0


def write_curve(history: Mapping[str, Any] | Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Write a PNG with the loss and its terms over the steps and, below, the DSC of each validation.

    Args:
        history: {"steps": entries, "validation": entries}, or only the list of step entries. A step entry holds "step"
            and loss terms by name ("total" is drawn thick; "seconds" and "learning_rate" are not drawn). A validation
            entry holds "step", "dice" (mean) and maybe "dice_by_class" (by name). None and NaN are left out.
        path: PNG file.

    Raises:
        OutputError: the file cannot be written.
    """
    steps, validation = _entries(history)
    figure = new_figure(9.0, 6.6 if validation else 4.2, PAPER)
    panels = figure.subplots(2 if validation else 1, 1, sharex=True, squeeze=False)[:, 0]
    _draw_losses(panels[0], steps)
    if validation:
        _draw_dice(panels[1], validation)
    panels[-1].set_xlabel("step", color=INK)
    _arrange(figure, panels)
    save_png(figure, path, _DPI)


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving average; at the ends over the values that there are."""
    window = np.ones(width)
    return np.convolve(values, window, mode="same") / np.convolve(np.ones(len(values)), window, mode="same")


def _entries(
    history: Mapping[str, Any] | Sequence[Mapping[str, float]],
) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    if isinstance(history, Mapping):
        return history.get("steps", ()), history.get("validation", ())
    return history, ()


def _series(entries: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a name where the value is a finite number."""
    pairs = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
    points = np.array(pairs, dtype=float).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def _names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the terms, the total first."""
    names = dict.fromkeys(name for entry in entries for name in entry if name not in NOT_TERMS)
    return sorted(names, key=lambda name: name != TOTAL)


def _draw_losses(axes: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    drawn = []
    terms = cycle(STYLES)
    for name in _names(steps):
        x, y = _series(steps, name)
        if not len(x) or not y.any():
            continue
        drawn.append(y)
        is_total = name == TOTAL
        color, line = (INK, "-") if is_total else next(terms)
        style = {
            "color": color,
            "linestyle": line,
            "linewidth": 2.2 if is_total else 1.5,
            "zorder": 3 if is_total else 2,
        }
        if len(x) >= _SMOOTH_FROM:
            axes.plot(x, y, color=color, linewidth=0.7, alpha=0.22)
            y = smoothed(y, max(3, len(y) // 40))
        label = f"{_readable(name)}  {y[-1]:.3g}"
        axes.plot(x, y, label=label, marker="o" if len(x) == 1 else None, **style)
    axes.set_ylabel("loss", color=INK)
    if not drawn:
        axes.text(0.5, 0.5, "no steps yet", transform=axes.transAxes, ha="center", va="center", color="#5f6368")
        return
    values = np.concatenate(drawn)
    if values.min() > 0 and values.max() / values.min() > _LOG_FROM_RATIO:
        axes.set_yscale("log")
        axes.set_ylabel("loss (log)", color=INK)
    elif values.min() >= 0:
        axes.set_ylim(bottom=0)


def _draw_dice(axes: Axes, validation: Sequence[Mapping[str, Any]]) -> None:
    by_class = [{"step": entry["step"], **(entry.get("dice_by_class") or {})} for entry in validation]
    names = list(dict.fromkeys(name for entry in by_class for name in entry if name != "step"))
    for name, (color, line) in zip(names, cycle(STYLES), strict=False):
        x, y = _series(by_class, name)
        if len(x) and len(names) > 1:
            label = f"{name}  {y[-1]:.3f}"
            axes.plot(x, y, color=color, linestyle=line, linewidth=1.4, marker="o", markersize=2.6, label=label)
    x, y = _series(validation, "dice")
    if len(x):
        label = f"{names[0] if len(names) == 1 else 'mean'}  {y[-1]:.3f}"
        axes.plot(x, y, color=INK, linewidth=2.2, marker="o", markersize=4, label=label, zorder=3)
        best = int(np.argmax(y))
        axes.scatter(
            x[best],
            y[best],
            s=110,
            facecolors="none",
            edgecolors="#d93025",
            linewidths=1.6,
            zorder=4,
            label=f"best  {y[best]:.3f} at step {x[best]:.0f}",
        )
    axes.set_ylabel("validation DSC", color=INK)
    axes.set_ylim(0, 1.02)


def _readable(name: str) -> str:
    return name.replace("_", " ")


def _arrange(figure: Figure, panels: Sequence[Axes]) -> None:
    """Grid, frame and legends beside the panels."""
    for axes in panels:
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
        axes.tick_params(colors="#5f6368", labelsize=9)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_edgecolor("#9aa0a6")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, labelcolor=INK)
    figure.subplots_adjust(left=0.08, right=0.74, top=0.97, bottom=0.14 if len(panels) == 1 else 0.09, hspace=0.1)
