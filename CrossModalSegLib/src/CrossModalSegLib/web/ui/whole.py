"""The whole page: a panel with four steps on the left, the views on the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trame.ui.vuetify3 import VAppLayout
from trame.widgets import client, html
from trame.widgets import vuetify3 as v3

from .actions import Actions
from .elements import chosen_class, icon_button
from .images_step import images_step
from .results_step import results_step
from .run_step import run_step
from .scribbles_step import scribbles_step
from .toolbar import toolbar
from .views import views

if TYPE_CHECKING:
    from trame_server import Server

THEME = {
    "theme": {
        "defaultTheme": "dark",
        "themes": {
            "dark": {
                "dark": True,
                "colors": {
                    "background": "#0d1117",
                    "surface": "#161b22",
                    "primary": "#58a6ff",
                    "secondary": "#8b949e",
                    "error": "#f85149",
                    "success": "#3fb950",
                    "warning": "#d29922",
                },
            }
        },
    }
}


# What trame shows instead of the page when its connection is closed.
LOST = """
<div class="page lost" role="alert" data-lost>
  <div>
    <h1>The connection is lost</h1>
    <p>The page comes back by itself as soon as the program answers. Where only the connection was interrupted, your
    work is still there; where the program was ended, it is not.</p>
  </div>
</div>
"""
_ASK_TO_END = "Delete all images, scribbles and results of this page?"
_NOTHING = "html { overflow: hidden; }"


def build(server: Server, do: Actions) -> None:
    """Make the page."""
    with VAppLayout(server, template_name="main") as layout:
        layout.root.theme = "dark"
        with html.Div(classes="page"):
            with html.Aside(classes="panel"):
                _head(do)
                with html.Div(classes="steps"):
                    images_step(do)
                    scribbles_step(do)
                    run_step(do)
                    results_step(do)
            with html.Section(classes="stage"):
                toolbar(do)
                views()
                _welcome(do)
        _messages()
        html.Input(type="file", id="cms-files", multiple=True, classes="hidden", raw_attrs=['data-purpose="image"'])
        html.Input(
            type="file",
            id="cms-folder",
            multiple=True,
            classes="hidden",
            raw_attrs=['data-purpose="image"', "webkitdirectory"],
        )
        html.Input(type="file", id="cms-mask", classes="hidden", raw_attrs=['data-purpose="mask"'])
        client.Style(_NOTHING)


def _head(do: Actions) -> None:
    with html.Header(classes="head"):
        html.Div(classes="logo")
        html.H1("CrossModalSeg")
        html.Div(classes="grow")
        with v3.VMenu(location="bottom end"):
            with html.Template(raw_attrs=['v-slot:activator="{ props }"']):
                icon_button("mdi-dots-vertical", None, 'v-bind="props"', 'title="More"', size=20)
            with html.Div(classes="menu"):
                html.P(
                    "Research software, not for clinical use. Everything you load stays in this page's own process and "
                    "is deleted when it ends."
                )
                html.Button(
                    "Delete my data and end",
                    classes="button danger",
                    raw_attrs=["data-end", f":data-confirm=\"images.length ? '{_ASK_TO_END}' : null\""],
                )
    with html.Div(classes="tabs", raw_attrs=['role="tablist"']):
        for mode, title, hint in (
            ("fit", "CT and MR", "CmFNet: segment one case from scribbles on it"),
            ("refer", "By reference", "CrossMR: scribble on one image, get the structures in others"),
        ):
            html.Button(
                title,
                classes=chosen_class("tab", f"mode === '{mode}'"),
                click=(do.set_mode, f"['{mode}']"),
                disabled=("busy",),
                raw_attrs=[f'title="{hint}"', 'role="tab"', f""":aria-selected="mode === '{mode}'\""""],
            )


def _welcome(do: Actions) -> None:
    with html.Div(v_if="!images.length", classes="welcome"), html.Div(classes="card"):
        v3.VIcon(icon="mdi-layers-triple-outline", size=44, color="primary")
        html.H2("Segment from a few scribbles")
        html.P(
            "Load a CT and an MR of one patient, or a single image. Draw on a few slices, then let CmFNet do the rest.",
            v_if="mode === 'fit'",
        )
        html.P(
            "Load a reference and its targets, other images of the same organs. Draw on a few slices of the reference, "
            "then let CrossMR segment them all.",
            v_else=True,
        )
        html.P("NIfTI, NRRD, MHA and DICOM folders; drop files anywhere.")
        with html.Div(classes="buttons centred"):
            html.Button("Choose files", classes="button primary", raw_attrs=['data-open="cms-files"'])
            html.Button("DICOM folder", classes="button", raw_attrs=['data-open="cms-folder"'])
            html.Button("Try the phantom", classes="button", click=(do.phantom, "[]"), disabled=("loading !== ''",))
        html.P("{{ loading }}", v_if="loading", classes="dim")


def _messages() -> None:
    with html.Div(v_if="error", classes="message error", raw_attrs=['role="alert"']):
        v3.VIcon(icon="mdi-alert-circle-outline", size=20)
        html.Span("{{ error }}", classes="grow")
        icon_button("mdi-close", "error = ''", 'aria-label="Close"', size=18)
