"""What the page calls when something is clicked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Handler = Callable[..., None]


class Actions(Protocol):
    """What the page does when something is clicked."""

    set_mode: Handler
    phantom: Handler
    set_role: Handler
    remove_image: Handler
    show_image: Handler
    register: Handler
    add_class: Handler
    rename_class: Handler
    remove_class: Handler
    auto_background: Handler
    clear_strokes: Handler
    undo_stroke: Handler
    redo_stroke: Handler
    start: Handler
    cancel: Handler
    finish: Handler
    pause_or_resume: Handler
    undo_result: Handler
    reset_views: Handler
    auto_window: Handler
    ct_window: Handler
