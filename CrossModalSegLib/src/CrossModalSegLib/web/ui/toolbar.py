"""The bar above the views: tools, brush, undo, what is shown, window and level."""

from __future__ import annotations

from typing import Any

from trame.widgets import html
from trame.widgets import vuetify3 as v3

from .actions import Actions
from .elements import chosen_class, icon_button, slider

_TOOLS = (
    ("look", "mdi-crosshairs", "Look: click to bring all slices here (wheel: scroll, right drag: zoom, middle: move)"),
    ("window", "mdi-contrast-circle", "Window: drag sideways for width, up and down for level"),
    ("draw", "mdi-brush", "Draw scribbles of the chosen structure"),
    ("erase", "mdi-eraser", "Erase scribbles"),
)
_LAYOUTS = (
    ("four", "mdi-view-grid-outline", "Slices and 3D, images blended"),
    ("side", "mdi-view-module-outline", "Both images side by side, linked"),
)
_CT_WINDOWS_HU = (("Soft tissue", -160, 240), ("Brain", 0, 80), ("Bone", -450, 1050), ("Lung", -1350, 150))


def toolbar(do: Actions) -> None:
    """Make the bar."""
    with html.Div(classes="toolbar"):
        _tools()
        with html.Div(classes="tool-group"):
            html.Span("Brush", classes="dim")
            slider("brush_mm", 1, 40, 0.5, "Diameter of the brush in mm", classes="brush")
            html.Span("{{ brush_mm }} mm", classes="value")
        _undo(do)
        html.Div(classes="grow")
        _two_images()
        with v3.VMenu(location="bottom end", close_on_content_click=False):
            with html.Template(raw_attrs=['v-slot:activator="{ props }"']):
                _plain_tool("mdi-tune-variant", None, 'v-bind="props"', 'title="Window and level"')
            _window_menu(do)
        _plain_tool("mdi-fit-to-screen-outline", (do.reset_views, "[]"), 'title="Show all of the images"')


def _plain_tool(icon: str, click: tuple | None, *attributes: str) -> None:
    icon_button(icon, click, *attributes, size=20, classes="tool alone", disabled=("!images.length",))


def _choice(name: str, value: str, icon: str, hint: str, click: str, **options: Any) -> None:
    """A button for a value of a name in the page's state, of which one is chosen."""
    is_chosen = f"{name} === '{value}'"
    attributes = (f'title="{hint}"', f'data-{name}="{value}"', f':aria-pressed="{is_chosen}"')
    icon_button(icon, click, *attributes, size=20, classes=chosen_class("tool", is_chosen), **options)


def _tools() -> None:
    with html.Div(classes="tools"):
        for tool, icon, hint in _TOOLS:
            _choice("tool", tool, icon, hint, f"tool = '{tool}'", disabled=("!images.length",))


def _undo(do: Actions) -> None:
    with html.Div(classes="tools"):
        for action, icon, flag, hint in (
            (do.undo_stroke, "mdi-undo", "can_undo", "Undo the last stroke (Ctrl+Z)"),
            (do.redo_stroke, "mdi-redo", "can_redo", "Redo (Ctrl+Y)"),
        ):
            icon_button(
                icon,
                (action, "[]"),
                f'title="{hint}"',
                f'data-key="{flag}"',
                size=20,
                classes="tool",
                disabled=(f"!{flag}",),
            )


def _two_images() -> None:
    with html.Div(v_if="has_second && layout === 'four'", classes="tool-group"):
        html.Span("{{ first_title }}", classes="dim")
        slider("blend", 0, 1, 0.05, "How much of the second image is shown", classes="blend")
        html.Span("{{ second_title }}", classes="dim")
    with html.Div(v_if="has_second", classes="tools"):
        for layout, icon, hint in _LAYOUTS:
            _choice("layout", layout, icon, hint, f"layout = '{layout}'; focus = ''")


def _window_menu(do: Actions) -> None:
    with html.Div(classes="menu wide"):
        for number in ("1", "2"):
            with html.Div(v_if=f"window_{number}.name"):
                _window_of(number, do)


def _window_of(number: str, do: Actions) -> None:
    with html.Div(classes="line"):
        html.Span(f"{{{{ window_{number}.name }}}}", classes="strong one-line grow")
        html.Span(
            f"{{{{ range_{number}.map(Math.round).join(' to ') }}}}{{{{ window_{number}.unit }}}}",
            classes="dim",
        )
    v3.VRangeSlider(
        v_model=(f"range_{number}",),
        min=(f"window_{number}.low",),
        max=(f"window_{number}.high",),
        step=(f"window_{number}.step",),
        density="compact",
        hide_details=True,
        raw_attrs=['role="group"', f':aria-label="`Window of ${{window_{number}.name}}`"'],
        color="primary",
        thumb_size=14,
        track_size=3,
    )
    with html.Div(classes="buttons"):
        html.Button("Auto", classes="button quiet", click=(do.auto_window, f"[{number}]"))
        for title, low, high in _CT_WINDOWS_HU:
            html.Button(
                title,
                v_if=f"window_{number}.is_ct",
                classes="button quiet",
                click=(do.ct_window, f"[{number}, {low}, {high}]"),
            )
