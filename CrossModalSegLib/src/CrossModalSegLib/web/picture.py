"""What the browser is told of a session: plain values, no scene."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from CrossModalSegLib.scene.segments import BACKGROUND, BACKGROUND_STYLE
from CrossModalSegLib.scene.volumes import read_grid

from .session import ROLES, Image, Run, Session

if TYPE_CHECKING:
    from trame_server.state import State

_LARGEST_CURSOR = 126  # browsers show no larger ones
_BY_STRUCTURES = "Model by structures"  # of those that ship
_WIDTH, _HEIGHT, _MARGIN = 300.0, 84.0, 8.0
_NSD = "NSD at "
_COLUMNS = {
    "ml": {"title": "Volume", "unit": "ml", "hint": "Volume of the structure in the result"},
    "DSC": {"title": "DSC", "unit": "", "hint": "Dice similarity with the mask, from 0 to 1"},
    "ASD [mm]": {"title": "ASD", "unit": "mm", "hint": "Average distance between the surfaces of result and mask"},
}


def picture(session: Session, state: State) -> dict[str, Any]:
    """All values that follow from a session; `state` holds what the person chose."""
    used = session.used
    missing = session.missing() if used else []
    counts = session.counts()
    return (
        {
            "mode": session.mode,
            "images": [_image(session, image) for image in session.images],
            "roles": [{"value": value, "title": title} for value, title in ROLES[session.mode].items()],
            "has_second": len(used) > 1,
            "labels": _labels(session),
            "hint": _hint(session, missing),
            "can_background": any(count for name, count in counts.items() if name != BACKGROUND),
            "has_strokes": any(counts.values()),
            "can_undo": session.drawing is not None and session.drawing.can_undo,
            "can_redo": session.drawing is not None and session.drawing.can_redo,
            "busy": session.is_busy,
        }
        | _alignment(session)
        | _titles(session, state)
        | _choice(session, state, missing)
        | _run(_shown_run(session))
        | _result(session)
        | {f"window_{number}": _window(used[number - 1] if number <= len(used) else None) for number in (1, 2)}
    )


def brush_cursor(diameter: float) -> str:
    """A CSS cursor that shows the size of a brush, pixels; the browser draws it without asking."""
    if not 3 <= diameter <= _LARGEST_CURSOR:
        return "crosshair"
    half = math.ceil(diameter / 2) + 1
    ring = f'<circle cx="{half}" cy="{half}" r="{diameter / 2:.1f}" fill="none"'
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * half}" height="{2 * half}">'
        f'{ring} stroke="black" stroke-opacity=".6" stroke-width="2.5"/>'
        f'{ring} stroke="white" stroke-width="1.2"/></svg>'
    )
    return f"url('data:image/svg+xml,{quote(text)}') {half} {half}, crosshair"


def curve_svg(points: Sequence[tuple[float, float]]) -> str:
    """A loss curve as a small picture; empty with fewer than two points."""
    if len(points) < 2:
        return ""
    end = max(seconds for seconds, _ in points) or 1.0
    values = sorted(loss for _, loss in points)
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]
    reach = (high - low) or 1.0
    left = 34.0

    def place(seconds: float, loss: float) -> str:
        x = left + (_WIDTH - left - _MARGIN) * seconds / end
        y = _MARGIN + (_HEIGHT - 3 * _MARGIN) * (1 - min(1.0, (loss - low) / reach))
        return f"{x:.1f},{y:.1f}"

    path = " ".join(place(*point) for point in points)
    bottom = _HEIGHT - 2 * _MARGIN
    text = 'fill="#8b949e" font-size="9" font-family="Roboto, sans-serif"'
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none" role="img" aria-label="Loss">'
        f'<line x1="{left}" y1="{bottom}" x2="{_WIDTH - _MARGIN}" y2="{bottom}" stroke="#2a313c"/>'
        f'<polyline points="{path}" fill="none" stroke="#58a6ff" stroke-width="1.5" stroke-linejoin="round"/>'
        f'<text x="4" y="{_MARGIN + 5}" {text}>{high:.2g}</text><text x="4" y="{bottom}" {text}>{low:.2g}</text>'
        f'<text x="{left}" y="{_HEIGHT - 4}" {text}>loss</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 4}" {text} text-anchor="end">{end:.0f} s</text></svg>'
    )


def _image(session: Session, image: Image) -> dict[str, Any]:
    shape = read_grid(image.node).shape[::-1]
    spacing = image.node.GetSpacing()
    return {
        "id": image.identity,
        "name": image.name,
        "detail": f"{'×'.join(map(str, shape))} · {'×'.join(f'{each:.3g}' for each in spacing)}\N{NO-BREAK SPACE}mm",
        "role": image.roles[session.mode],
        "shown": image in session.used[:2],
        "has_work": session.has_work(image.identity),
        "can_show": image.roles[session.mode] == "target" and len(session.used) > 2,
    }


def _labels(session: Session) -> list[dict[str, Any]]:
    counts = session.counts()
    rows = [(label.value, label.name, label.color) for label in session.table.labels]
    return [
        {"value": value, "name": name, "color": _rgb(color), "count": _number(counts[name])}
        for value, name, color in [*rows, (0, BACKGROUND, BACKGROUND_STYLE.color)]
    ]


def _hint(session: Session, missing: Sequence[str]) -> str:
    if session.primary is None:
        return ""
    if not missing:
        return "Every structure has scribbles."
    drawn = any(session.counts().values())
    return f"Still to draw: {', '.join(missing)}." if drawn else f"Draw on a few slices: {', '.join(missing)}."


def _alignment(session: Session) -> dict[str, Any]:
    found = session.placement()
    if found is None:
        return {"alignment": "", "alignment_ok": True, "alignment_exact": True}
    labels, is_several = ROLES[session.mode], len(session.used) > 2
    first, second = (labels[image.roles[session.mode]] for image in session.used[:2])
    pair = f"{first} and {session.used[1].name if is_several else second}"
    both = pair if is_several else "The images"
    texts = {
        "same grid": f"{pair} share a grid",
        "same patient space": f"{both} overlap by {found.overlap:.0%}",
        "apart": f"{both} are apart (overlap {found.overlap:.0%})",
    }
    return {
        "alignment": texts[found.state],
        "alignment_ok": found.state != "apart",
        "alignment_exact": found.state == "same grid",
    }


def _titles(session: Session, state: State) -> dict[str, str]:
    used = session.used
    roles = ROLES[session.mode]
    names = [roles[image.roles[session.mode]] for image in used[:2]] + ["", ""]
    by_name = {"Other"} | ({"Target"} if len(used) > 2 else set())
    names = [image.name if role in by_name else role for role, image in zip(names, used, strict=False)] + ["", ""]
    titles = {"first_title": names[0], "second_title": names[1]}
    if state.layout == "four" and names[1] and state.blend > 0:
        names[0] = names[1] if state.blend >= 1 else f"{names[0]} + {names[1]}"
    for number, name in enumerate(names[:2], start=1):
        for orientation in ("Axial", "Sagittal", "Coronal"):
            titles[f"title_{orientation}{number}"] = f"{name} · {orientation.lower()}" if name else ""
    return titles


def _choice(session: Session, state: State, missing: Sequence[str]) -> dict[str, Any]:
    """What can be started."""
    task = "refer" if session.mode == "refer" else "segment"
    models = session.models_for(task)
    titles = {model.name: PurePath(model.name).name for model in models}
    if task == "refer" and models and session.may_choose_model:
        titles = {"": _BY_STRUCTURES, **titles}
    chosen = state.model if state.model in titles else next(iter(titles), "")
    is_fit = session.mode == "fit" and state.kind == "fit"
    can = session.primary is not None and (is_fit or bool(titles)) and not (missing and (is_fit or task == "refer"))
    return {
        "models": [{"value": name, "title": title} for name, title in titles.items()],
        "model": chosen,
        "model_hint": _model_hint(session, "crossmr" if task == "refer" else "cmfnet"),
        "can_start": can,
        "start_title": "Refer" if task == "refer" and session.mode == "refer" else "Fit" if is_fit else "Segment",
    }


def _model_hint(session: Session, train: str) -> str:
    """What to say where there is no model to choose."""
    if session.model_problem:
        return session.model_problem
    if not session.has_looked_for_models:
        return "Looking for models…"
    return f"No model is installed; train one with `crossmodalseg train {train}`, or start with --model."


def _shown_run(session: Session) -> Run | None:
    """The present one, or the last one where it belongs to what is shown."""
    run = session.run
    return run if run is not None and (session.is_busy or run.mode == session.mode) else None


def _run(run: Run | None) -> dict[str, Any]:
    if run is None:
        return {
            "run_title": "",
            "run_eta": "",
            "run_percent": -1,
            "run_message": "",
            "paused": False,
            "can_finish": False,
            "curve": "",
            "note": "",
        }
    progress = run.task.progress
    state = run.task.state
    return {
        "run_title": run.title + (" (paused)" if state == "paused" else ""),
        "run_eta": _remaining(progress.eta) if progress.eta is not None and state == "running" else "",
        "run_percent": round(100 * progress.done / progress.total, 1) if progress.total else -1,
        "run_message": _message(run),
        "paused": state == "paused",
        "can_finish": run.can_finish and not run.is_finishing,
        "curve": curve_svg(run.curve),
        "note": " ".join(run.notes[-2:]),
    }


def _message(run: Run) -> str:
    if run.task.state == "queued":
        return "Waiting for the worker"
    if run.is_finishing:
        return (
            "Stopping with the best answer so far" if run.curve else "Stopping with the first answer, once it is there"
        )
    text = run.task.progress.message or "Preparing"
    if run.can_finish and run.curve:
        return f"Loss {run.curve[-1][1]:.3g}; the views show the best answer so far"
    return text[:1].upper() + text[1:]


def _result(session: Session) -> dict[str, Any]:
    columns = list(dict.fromkeys(title for row in session.rows for title in row.values))
    rows = []
    is_several = len({row.image for row in session.rows}) > 1
    for index, row in enumerate(session.rows):
        is_first = is_several and (index == 0 or session.rows[index - 1].image != row.image)
        values = [_value(title, row.values) for title in columns]
        rows.append(
            {
                "image": row.image,
                "first": is_first,
                "structure": row.structure,
                "color": _rgb(row.color),
                "values": values,
            }
        )
    done = [image for image in session.images if image.identity in session.results]
    return {
        "has_result": bool(done),
        "columns": [_column(title) for title in columns],
        "rows": rows,
        "files": [
            {"id": session.images.index(image), "name": image.name, "nifti": session.can_be_nifti(image.identity)}
            for image in done
        ],
        "can_undo_result": session.workflow.can_undo,
        "has_mask": bool(session.masks),
        "measuring": session.is_measuring,
    }


def _window(image: Image | None) -> dict[str, Any]:
    if image is None:
        return {"name": "", "low": 0, "high": 1, "step": 1, "is_ct": False, "unit": ""}
    reach = image.high - image.low
    return {
        "name": image.name,
        "low": round(image.low - 0.1 * reach, 3),
        "high": round(image.high + 0.3 * reach, 3),
        "step": round(reach / 400, 4),
        "is_ct": image.is_ct,
        "unit": " HU" if image.is_ct else "",
    }


def _column(title: str) -> dict[str, str]:
    """Head of a column: what it is, its unit or tolerance, and what that means."""
    if title.startswith(_NSD):
        tolerance = title.removeprefix(_NSD)
        return {"title": "NSD", "unit": tolerance, "hint": f"Share of both surfaces within {tolerance} of each other"}
    return _COLUMNS[title]


def _value(title: str, values: Mapping[str, float]) -> str:
    value = values.get(title)
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.1f}" if title == "ml" else f"{value:.2f}" if "[mm]" in title else f"{value:.3f}"


def _remaining(seconds: float) -> str:
    if seconds < 60:
        return f"{max(1, math.ceil(seconds))} s left"
    return f"{math.ceil(seconds / 60)} min left"


def _number(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _rgb(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
