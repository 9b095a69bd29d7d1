"""Parts that the page is made of in several places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trame.widgets import html
from trame.widgets import vuetify3 as v3

# The value of a field to type in: as a property, any change of the page would put it in place of what is being typed.
VALUE_ATTRIBUTE = ':value.attr="{}"'
SHOW_OR_HIDE = "{} ? 'mdi-eye-outline' : 'mdi-eye-off-outline'"


def step(number: int, title: str) -> html.Section:
    """A numbered section of the panel, to be filled in a `with`."""
    section = html.Section(classes="step")
    with section, html.H2():
        html.Span(str(number), classes="number")
        html.Span(title)
    return section


def icon_button(
    icon: str | tuple[str],
    click: str | tuple[Callable[..., None], str] | None,
    *attributes: str,
    size: int = 16,
    classes: str | tuple[str] = "icon-button",
    **options: Any,
) -> None:
    """A button that is a picture.

    Args:
        icon: Name of the picture, or an expression in a tuple.
        click: Expression, or (action, its arguments).
        attributes: HTML attributes; a title says what the button does.
        size: Of the picture, pixels.
        classes: Of the button.
        options: Of trame's button, such as `disabled`.
    """
    if click is not None:
        options["click"] = click
    with html.Button(classes=classes, raw_attrs=list(attributes), **options):
        v3.VIcon(icon=icon, size=size)


def slider(name: str, low: float, high: float, step: float, hint: str, classes: str) -> None:
    """A slider of a number of the page's state."""
    html.Input(
        type="range",
        classes=f"slider {classes}",
        value=(name,),
        input=f"{name} = Number($event.target.value)",
        raw_attrs=[f'min="{low}"', f'max="{high}"', f'step="{step}"', f'aria-label="{hint}"', f'id="cms-{name}"'],
    )


def chosen_class(name: str, condition: str) -> tuple[str]:
    """A class, and that of what is chosen where a condition holds."""
    return (f"'{name}' + ({condition} ? ' chosen' : '')",)
