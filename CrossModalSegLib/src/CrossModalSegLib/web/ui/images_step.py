"""Step 1: the images, what each is used as, and how they lie to each other."""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v3

from .actions import Actions
from .elements import SHOW_OR_HIDE, icon_button, step


def images_step(do: Actions) -> None:
    """Make the step."""
    with step(1, "Images"):
        _image(do)
        _alignment(do)
        with html.Div(classes="buttons"):
            html.Button("Add files", classes="button", raw_attrs=['data-open="cms-files"'], disabled=("busy",))
            html.Button("DICOM folder", classes="button", raw_attrs=['data-open="cms-folder"'], disabled=("busy",))
            html.Button("Phantom", classes="button", click=(do.phantom, "[]"), disabled=("busy || loading !== ''",))
        with html.Div(v_if="loading", classes="line"):
            v3.VProgressCircular(indeterminate=True, size=14, width=2)
            html.Span("{{ loading }}", classes="dim")


def _image(do: Actions) -> None:
    with html.Div(v_for="image in images", key="image.id", classes="image"):
        with html.Div(classes="image-text"):
            html.Div("{{ image.name }}", classes="image-name", raw_attrs=[':title="image.name"'])
            html.Div("{{ image.detail }}", classes="dim")
        icon_button(
            (SHOW_OR_HIDE.format("image.shown"),),
            (do.show_image, "[image.id]"),
            'title="Show this target in the views"',
            classes=("'icon-button' + (image.shown ? ' on' : '')",),
            v_if="image.can_show",
            disabled=("busy",),
        )
        with html.Select(
            classes="select small",
            change=(do.set_role, "[image.id, $event.target.value]"),
            disabled=("busy",),
            raw_attrs=[
                ':value="image.role"',
                ':aria-label="`Use of ${image.name}`"',
                'title="What the image is used as"',
            ],
        ):
            html.Option("{{ role.title }}", v_for="role in roles", key="role.value", value=("role.value",))
        icon_button(
            "mdi-close",
            (do.remove_image, "[image.id]"),
            'title="Remove the image with its scribbles and results"',
            ':data-confirm="image.has_work ? `Remove ${image.name} with its scribbles and results?` : null"',
            disabled=("busy",),
        )


def _alignment(do: Actions) -> None:
    with html.Div(v_if="alignment", classes="line"):
        v3.VIcon(icon=("alignment_ok ? 'mdi-check-circle-outline' : 'mdi-alert-circle-outline'",), size=16)
        html.Span("{{ alignment }}", classes="dim grow")
        html.Button(
            "Align",
            v_if="!alignment_exact",
            classes="button quiet",
            click=(do.register, "[]"),
            disabled=("busy",),
            raw_attrs=['title="Move the second image onto the first (rigid)"'],
        )
