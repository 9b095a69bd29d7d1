"""The views, and what lies on top of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trame.widgets import client, html

from CrossModalSegLib.web.viewer import FIRST, SECOND, THREE_D

from .elements import icon_button

if TYPE_CHECKING:
    from trame_server import Server
    from trame_slicer.views import SliceView, ThreeDView


def views() -> None:
    """Make the views: those of the layout, or one of them alone."""
    columns = "focus ? 1 : (layout === 'side' ? 3 : 2)"
    with html.Div(
        classes="views",
        style=(f"`grid-template-columns: repeat(${{{columns}}}, minmax(0, 1fr))`",),
    ):
        for name in (*FIRST, THREE_D, *SECOND):
            layouts = "layout === 'four'" if name == THREE_D else "layout === 'side'" if name in SECOND else "true"
            with html.Div(
                v_if=f"focus ? focus === '{name}' : {layouts}",
                key=f"'{name}'",
                classes="view" if name == THREE_D else ("'view' + (tool === 'look' ? '' : ' tool-' + tool)",),
                style=(f"`--brush: ${{cursor_{name} || 'crosshair'}}`",) if name != THREE_D else "",
                raw_attrs=[f'data-view="{name}"', 'role="group"', f':aria-label="{_title(name)}"'],
            ):
                client.ServerTemplate(name=name)


def _title(name: str) -> str:
    """Of a view, as an expression."""
    return "'3D'" if name == THREE_D else f"title_{name} || '{name[:-1]}'"


def slice_overlay(_server: Server, name: str, _view: SliceView) -> None:
    """What lies on top of a slice: its image, sides, position and a button for the whole stage."""
    orientation = name[:-1]
    with html.Div(classes="over"):
        html.Span(f"{{{{ title_{name} }}}}", classes="over-title")
        html.Span(f"{{{{ where_{name} }}}}", classes="over-where")
        for at, place in enumerate(("left", "right", "top", "bottom")):
            html.Span(f"{{{{ sides_{name}[{at}] }}}}", classes=f"over-side over-{place}")
        _focus_button(name)
        html.Input(
            type="range",
            classes="over-slider",
            min=(f"low_{name}",),
            max=(f"high_{name}",),
            step=(f"step_{name}",),
            value=(f"at_{name}",),
            v_show="images.length",
            input=f"at_{name} = Number($event.target.value)",
            raw_attrs=[f'aria-label="{orientation} slice"'],
        )


def solid_overlay(_server: Server, _name: str, _view: ThreeDView) -> None:
    """What lies on top of the 3D view."""
    with html.Div(classes="over"):
        html.Span("3D", classes="over-title")
        html.Span("{{ solid_hint }}", classes="over-where")
        _focus_button(THREE_D)


def _focus_button(name: str) -> None:
    icon_button(
        (f"focus === '{name}' ? 'mdi-fullscreen-exit' : 'mdi-fullscreen'",),
        f"focus = focus === '{name}' ? '' : '{name}'",
        f""":title="focus === '{name}' ? 'Show all views' : 'Show this view alone'\"""",
        size=18,
        classes="over-focus",
    )
