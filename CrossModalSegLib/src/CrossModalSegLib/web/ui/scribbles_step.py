"""Step 2: the structures, and how much is drawn of each."""

from __future__ import annotations

from trame.widgets import html

from .actions import Actions
from .elements import VALUE_ATTRIBUTE, chosen_class, icon_button, step


def scribbles_step(do: Actions) -> None:
    """Make the step."""
    with step(2, "Scribbles"):
        _structure(do)
        with html.Div(classes="buttons"):
            html.Button("Add structure", classes="button", click=(do.add_class, "[]"), disabled=("busy",))
            html.Button(
                "Auto background",
                v_if="mode === 'fit'",
                classes="button",
                click=(do.auto_background, "[]"),
                disabled=("busy || !can_background",),
                raw_attrs=['title="Propose background scribbles away from what is drawn"'],
            )
            html.Button("Clear", classes="button", click=(do.clear_strokes, "[]"), disabled=("busy || !has_strokes",))
        with html.Div(v_if="hint", classes="line hint"):
            html.Span("{{ hint }}", classes="dim grow")
            html.A(
                "Save",
                v_if="has_strokes",
                classes="link",
                href="download/scribbles.seg.nrrd",
                raw_attrs=["download", 'title="Download the scribbles as .seg.nrrd"'],
            )


def _structure(do: Actions) -> None:
    with html.Div(
        v_for="label in labels",
        key="label.value",
        classes=chosen_class("label", "active === label.value"),
        # In the browser alone: a stroke that follows at once is of this class.
        click="active = label.value; tool = 'draw'",
    ):
        html.Button(
            classes="swatch",
            style=("`background: ${label.color}`",),
            raw_attrs=[':aria-label="`Draw ${label.name}`"', ':aria-pressed="active === label.value"'],
        )
        html.Input(
            v_if="label.value !== 0",
            classes="label-name",
            change=(do.rename_class, "[label.name, $event.target.value]"),
            disabled=("busy",),
            raw_attrs=[
                VALUE_ATTRIBUTE.format("label.name"),
                'maxlength="60"',
                'spellcheck="false"',
                'aria-label="Name of the structure"',
                ':title="label.name"',
            ],
        )
        html.Span("{{ label.name }}", v_else=True, classes="label-name")
        html.Span(
            "{{ label.count }}",
            classes="count",
            raw_attrs=[':title="`${label.count} voxels are drawn`"'],
        )
        icon_button(
            "mdi-close",
            (do.remove_class, "[label.name]"),
            'title="Remove the structure and its scribbles"',
            """:data-confirm="label.count === '0' ? null : `Remove ${label.name} with its scribbles?`\"""",
            v_if="label.value !== 0 && labels.length > 2",
            disabled=("busy",),
        )
