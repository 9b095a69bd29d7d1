"""The page as a person sees it: a panel with four steps on the left, the views on the right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trame.ui.vuetify3 import VAppLayout
from trame.widgets import client, html
from trame.widgets import vuetify3 as v3

from .viewer import FIRST, SECOND, THREE_D

if TYPE_CHECKING:
    from collections.abc import Callable

    from trame_server import Server
    from trame_slicer.views import SliceView, ThreeDView

    Handler = Callable[..., None]

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
_TOOLS = (
    ("look", "mdi-crosshairs", "Look: click to bring all slices here (wheel: scroll, right drag: zoom, middle: move)"),
    ("window", "mdi-contrast-circle", "Window: drag sideways for width, up and down for level"),
    ("draw", "mdi-brush", "Draw scribbles of the chosen structure"),
    ("erase", "mdi-eraser", "Erase scribbles"),
)
_TIMES = [
    {"title": "First answer", "value": 0},
    {"title": "30 seconds", "value": 30},
    {"title": "1 minute", "value": 60},
    {"title": "2 minutes", "value": 120},
    {"title": "5 minutes", "value": 300},
    {"title": "15 minutes", "value": 900},
]
_PIECES = {"large": "Keep large pieces", "largest": "Keep the largest piece", "all": "Keep all pieces"}
# As in the panel of 3D Slicer: whole seconds, an hour at most.
_TUNE_SECONDS = "Math.min(3600, Math.max(0, Math.round(Number($event.target.value)) || 0))"
# The value of a field to type in: as a property, any change of the page would put it in place of what is being typed.
_ATTRIBUTE = ':value.attr="{}"'


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
    with html.Button(
        classes="over-focus",
        click=f"focus = focus === '{name}' ? '' : '{name}'",
        raw_attrs=[f""":title="focus === '{name}' ? 'Show all views' : 'Show this view alone'\""""],
    ):
        v3.VIcon(icon=(f"focus === '{name}' ? 'mdi-fullscreen-exit' : 'mdi-fullscreen'",), size=18)


def build(server: Server, do: Actions) -> None:
    """Make the page."""
    with VAppLayout(server, template_name="main") as layout:
        layout.root.theme = "dark"
        with html.Div(classes="page"):
            with html.Aside(classes="panel"):
                _head(do)
                with html.Div(classes="steps"):
                    _images(do)
                    _scribbles(do)
                    _run(do)
                    _results(do)
            with html.Section(classes="stage"):
                _toolbar(do)
                _views()
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
_NOTHING = "html { overflow: hidden; }"


def _head(do: Actions) -> None:
    with html.Header(classes="head"):
        html.Div(classes="logo")
        html.H1("CrossModalSeg")
        html.Div(classes="grow")
        with v3.VMenu(location="bottom end"):
            with (
                html.Template(raw_attrs=['v-slot:activator="{ props }"']),
                html.Button(classes="icon-button", raw_attrs=['v-bind="props"', 'title="More"']),
            ):
                v3.VIcon(icon="mdi-dots-vertical", size=20)
            with html.Div(classes="menu"):
                html.P(
                    "Research software, not for clinical use. Everything you load stays in this page's own process and "
                    "is deleted when it ends."
                )
                html.Button("Delete my data and end", classes="button danger", raw_attrs=["data-end"])
    with html.Div(classes="tabs", raw_attrs=['role="tablist"']):
        for mode, title, hint in (
            ("fit", "CT and MR", "CmFNet: segment one case from scribbles on it"),
            ("refer", "By reference", "CrossMR: scribble on one image, get the structures in others"),
        ):
            html.Button(
                title,
                classes=(f"'tab' + (mode === '{mode}' ? ' chosen' : '')",),
                click=(do.set_mode, f"['{mode}']"),
                disabled=("busy",),
                raw_attrs=[f'title="{hint}"', 'role="tab"', f""":aria-selected="mode === '{mode}'\""""],
            )


def _step(number: int, title: str):
    section = html.Section(classes="step")
    with section, html.H2():
        html.Span(str(number), classes="number")
        html.Span(title)
    return section


def _images(do: Actions) -> None:
    with _step(1, "Images"):
        with html.Div(v_for="image in images", key="image.id", classes="image"):
            with html.Div(classes="image-text"):
                html.Div("{{ image.name }}", classes="image-name", raw_attrs=[':title="image.name"'])
                html.Div("{{ image.detail }}", classes="dim")
            with html.Button(
                v_if="image.can_show",
                classes=("'icon-button' + (image.shown ? ' on' : '')",),
                click=(do.show_image, "[image.id]"),
                disabled=("busy",),
                raw_attrs=['title="Show this target in the views"'],
            ):
                v3.VIcon(icon=("image.shown ? 'mdi-eye-outline' : 'mdi-eye-off-outline'",), size=16)
            with html.Select(
                classes="select small",
                change=(do.set_role, "[image.id, $event.target.value]"),
                disabled=("busy",),
                raw_attrs=[':value="image.role"', 'aria-label="Used as"'],
            ):
                html.Option("{{ role.title }}", v_for="role in roles", key="role.value", value=("role.value",))
            with html.Button(
                classes="icon-button",
                click=(do.remove_image, "[image.id]"),
                disabled=("busy",),
                raw_attrs=['title="Remove"'],
            ):
                v3.VIcon(icon="mdi-close", size=16)
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
        with html.Div(classes="buttons"):
            html.Button("Add files", classes="button", raw_attrs=['data-open="cms-files"'], disabled=("busy",))
            html.Button("DICOM folder", classes="button", raw_attrs=['data-open="cms-folder"'], disabled=("busy",))
            html.Button("Phantom", classes="button", click=(do.phantom, "[]"), disabled=("busy || loading !== ''",))
        with html.Div(v_if="loading", classes="line"):
            v3.VProgressCircular(indeterminate=True, size=14, width=2)
            html.Span("{{ loading }}", classes="dim")


def _scribbles(do: Actions) -> None:
    with _step(2, "Scribbles"):
        with html.Div(
            v_for="label in labels",
            key="label.value",
            classes=("'label' + (active === label.value ? ' chosen' : '')",),
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
                    _ATTRIBUTE.format("label.name"),
                    'maxlength="60"',
                    'spellcheck="false"',
                    'aria-label="Name of the structure"',
                ],
            )
            html.Span("{{ label.name }}", v_else=True, classes="label-name")
            html.Span("{{ label.count }}", classes=("label.count ? 'count' : 'count none'",))
            with html.Button(
                v_if="label.value !== 0 && labels.length > 2",
                classes="icon-button",
                click=(do.remove_class, "[label.name]"),
                disabled=("busy",),
                raw_attrs=['title="Remove the structure and its scribbles"'],
            ):
                v3.VIcon(icon="mdi-close", size=16)
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


def _run(do: Actions) -> None:
    with _step(3, "Segment"):
        with html.Div(v_if="!busy"):
            with html.Div(v_if="mode === 'fit'", classes="line"), html.Div(classes="switch"):
                for kind, title in (("fit", "From scribbles"), ("segment", "Trained model")):
                    html.Button(
                        title,
                        classes=(f"'switch-part' + (kind === '{kind}' ? ' chosen' : '')",),
                        click=f"kind = '{kind}'",
                        raw_attrs=[f""":aria-pressed="kind === '{kind}'\""""],
                    )
            with (
                html.Div(v_if="mode === 'refer'", classes="line"),
                html.Select(
                    classes="select grow",
                    change="pieces = $event.target.value",
                    raw_attrs=[':value="pieces"', 'aria-label="Pieces of a structure"', 'id="cms-pieces"'],
                ),
            ):
                for value, title in _PIECES.items():
                    html.Option(title, value=(f"'{value}'",))
            with html.Div(
                v_if="mode === 'refer'",
                classes="line",
                raw_attrs=[
                    'title="How long a copy of the network learns from the strokes first; 0 answers at once."',
                ],
            ):
                html.Label("Learn first:", classes="dim grow", raw_attrs=['for="cms-tune"'])
                html.Input(
                    type="number",
                    classes="select small",
                    # The field shows what is taken, also where that is what it was before.
                    change=f"tune_seconds = $event.target.value = {_TUNE_SECONDS}",
                    raw_attrs=[
                        _ATTRIBUTE.format("tune_seconds"),
                        'id="cms-tune"',
                        'min="0"',
                        'max="3600"',
                        'step="1"',
                    ],
                )
                html.Span("s", classes="dim")
            with html.Div(classes="line"):
                with html.Select(
                    v_if="mode === 'fit' && kind === 'fit'",
                    classes="select grow",
                    change="seconds = Number($event.target.value)",
                    raw_attrs=[':value="seconds"', 'aria-label="Time"', 'id="cms-seconds"'],
                ):
                    for each in _TIMES:
                        html.Option(each["title"], value=(str(each["value"]),))
                with html.Select(
                    v_if="(mode === 'refer' || kind === 'segment') && models.length",
                    classes="select grow",
                    change="model = $event.target.value",
                    raw_attrs=[':value="model"', 'aria-label="Model"'],
                ):
                    html.Option("{{ each.title }}", v_for="each in models", key="each.value", value=("each.value",))
                html.P(
                    "{{ model_hint }}",
                    v_if="(mode === 'refer' || kind === 'segment') && !models.length",
                    classes="dim grow",
                )
                html.Button(
                    "{{ start_title }}",
                    classes="button primary",
                    # What the person sees: told apart from the click, it may come after it where the page is busy.
                    click=(do.start, "[{kind, model, seconds, pieces, tune_seconds}]"),
                    disabled=("!can_start",),
                    raw_attrs=['id="cms-start"'],
                )
        with html.Div(v_if="busy", classes="running"):
            with html.Div(classes="line"):
                html.Span("{{ run_title }}", classes="grow strong")
                html.Span("{{ run_eta }}", classes="dim")
            v3.VProgressLinear(
                model_value=("run_percent",),
                indeterminate=("run_percent < 0",),
                color="primary",
                height=6,
                rounded=True,
            )
            html.P("{{ run_message }}", classes="dim one-line")
            with html.Div(classes="buttons"):
                html.Button("Cancel", classes="button danger", click=(do.cancel, "[]"), raw_attrs=['id="cms-cancel"'])
                html.Button("{{ paused ? 'Resume' : 'Pause' }}", classes="button", click=(do.pause_or_resume, "[]"))
                html.Button("Keep best", v_if="can_finish", classes="button", click=(do.finish, "[]"))
        with html.Details(v_if="curve", classes="curve", raw_attrs=[':open="busy"']):
            html.Summary("Loss curve")
            html.Div(v_html="curve")
        html.P("{{ note }}", v_if="note", classes="dim hint")


def _results(do: Actions) -> None:
    with _step(4, "Result"):
        html.P("Nothing segmented yet.", v_if="!has_result", classes="dim hint")
        with html.Div(v_if="has_result"):
            with html.Div(classes="line"):
                html.Span("Opacity", classes="dim")
                _slider("opacity", 0, 1, 0.05, "Opacity of the result", classes="grow")
                with html.Button(
                    classes=("'icon-button' + (result_visible ? ' on' : '')",),
                    click="result_visible = !result_visible",
                    raw_attrs=['title="Show or hide the segmentation"'],
                ):
                    v3.VIcon(icon=("result_visible ? 'mdi-eye-outline' : 'mdi-eye-off-outline'",), size=18)
                html.Button(
                    "3D",
                    classes=("'icon-button text' + (result_3d ? ' on' : '')",),
                    click="result_3d = !result_3d",
                    raw_attrs=['title="Show or hide the surfaces"'],
                )
            with html.Table(v_if="rows.length", classes="table"):
                with html.Thead(), html.Tr():
                    html.Th("Structure")
                    html.Th("{{ column }}", v_for="column in columns", key="column", classes="number-cell")
                with html.Tbody(), html.Template(v_for="(row, index) in rows", key="index"):
                    with html.Tr(v_if="row.first", classes="group"):
                        html.Td("{{ row.image }}", colspan=("columns.length + 1",))
                    with html.Tr():
                        with html.Td():
                            html.Span(classes="dot", style=("`background: ${row.color}`",))
                            html.Span("{{ row.structure }}")
                        html.Td("{{ value }}", v_for="(value, at) in row.values", key="at", classes="number-cell")
            with html.Div(v_for="file in files", key="file.id", classes="line"):
                v3.VIcon(icon="mdi-download", size=16)
                html.Span("{{ file.name }}", classes="dim one-line grow")
                html.A(
                    ".nii.gz",
                    v_if="file.nifti",
                    classes="link",
                    href=("`download/${file.id}.nii.gz`",),
                    raw_attrs=["download"],
                )
                html.A(".seg.nrrd", classes="link", href=("`download/${file.id}.seg.nrrd`",), raw_attrs=["download"])
        with html.Div(classes="buttons"):
            html.Button(
                "Undo last run",
                v_if="can_undo_result",
                classes="button",
                click=(do.undo_result, "[]"),
                disabled=("busy",),
            )
            html.Button(
                "{{ has_mask ? 'Replace mask' : 'Compare with a mask' }}",
                v_if="images.length",
                classes="button",
                raw_attrs=['data-open="cms-mask"', 'title="A true segmentation to measure against: DSC, ASD, NSD"'],
                disabled=("busy",),
            )


def _toolbar(do: Actions) -> None:
    with html.Div(classes="toolbar"):
        with html.Div(classes="tools"):
            for tool, icon, hint in _TOOLS:
                with html.Button(
                    classes=(f"'tool' + (tool === '{tool}' ? ' chosen' : '')",),
                    click=f"tool = '{tool}'",
                    disabled=("!images.length",),
                    raw_attrs=[f'title="{hint}"', f'data-tool="{tool}"', f""":aria-pressed="tool === '{tool}'\""""],
                ):
                    v3.VIcon(icon=icon, size=20)
        with html.Div(classes="tool-group"):
            html.Span("Brush", classes="dim")
            _slider("brush_mm", 1, 40, 0.5, "Diameter of the brush in mm", classes="brush")
            html.Span("{{ brush_mm }} mm", classes="value")
        with html.Div(classes="tools"):
            for action, icon, flag, hint in (
                (do.undo_stroke, "mdi-undo", "can_undo", "Undo the last stroke (Ctrl+Z)"),
                (do.redo_stroke, "mdi-redo", "can_redo", "Redo (Ctrl+Y)"),
            ):
                with html.Button(
                    classes="tool",
                    click=(action, "[]"),
                    disabled=(f"!{flag}",),
                    raw_attrs=[f'title="{hint}"', f'data-key="{flag}"'],
                ):
                    v3.VIcon(icon=icon, size=20)
        html.Div(classes="grow")
        with html.Div(v_if="has_second && layout === 'four'", classes="tool-group"):
            html.Span("{{ first_title }}", classes="dim")
            _slider("blend", 0, 1, 0.05, "How much of the second image is shown", classes="blend")
            html.Span("{{ second_title }}", classes="dim")
        with html.Div(v_if="has_second", classes="tools"):
            for layout, icon, hint in (
                ("four", "mdi-view-grid-outline", "Slices and 3D, images blended"),
                ("side", "mdi-view-module-outline", "Both images side by side, linked"),
            ):
                with html.Button(
                    classes=(f"'tool' + (layout === '{layout}' ? ' chosen' : '')",),
                    click=f"layout = '{layout}'; focus = ''",
                    raw_attrs=[
                        f'title="{hint}"',
                        f'data-layout="{layout}"',
                        f""":aria-pressed="layout === '{layout}'\"""",
                    ],
                ):
                    v3.VIcon(icon=icon, size=20)
        with v3.VMenu(location="bottom end", close_on_content_click=False):
            with (
                html.Template(raw_attrs=['v-slot:activator="{ props }"']),
                html.Button(
                    classes="tool alone",
                    disabled=("!images.length",),
                    raw_attrs=['v-bind="props"', 'title="Window and level"'],
                ),
            ):
                v3.VIcon(icon="mdi-tune-variant", size=20)
            _window_menu(do)
        with html.Button(
            classes="tool alone",
            click=(do.reset_views, "[]"),
            disabled=("!images.length",),
            raw_attrs=['title="Show all of the images"'],
        ):
            v3.VIcon(icon="mdi-fit-to-screen-outline", size=20)


def _window_menu(do: Actions) -> None:
    with html.Div(classes="menu wide"):
        for number in ("1", "2"):
            with html.Div(v_if=f"window_{number}.name"):
                with html.Div(classes="line"):
                    html.Span(f"{{{{ window_{number}.name }}}}", classes="strong one-line grow")
                    html.Span(
                        f"{{{{ Math.round(range_{number}[0]) }}}} to {{{{ Math.round(range_{number}[1]) }}}}",
                        classes="dim",
                    )
                v3.VRangeSlider(
                    v_model=(f"range_{number}",),
                    min=(f"window_{number}.low",),
                    max=(f"window_{number}.high",),
                    step=(f"window_{number}.step",),
                    density="compact",
                    hide_details=True,
                    color="primary",
                    thumb_size=14,
                    track_size=3,
                )
                with html.Div(classes="buttons"):
                    html.Button("Auto", classes="button quiet", click=(do.auto_window, f"[{number}]"))
                    for title, low, high in (
                        ("Soft tissue", -160, 240),
                        ("Brain", 0, 80),
                        ("Bone", -450, 1050),
                        ("Lung", -1350, 150),
                    ):
                        html.Button(
                            title,
                            v_if=f"window_{number}.is_ct",
                            classes="button quiet",
                            click=(do.ct_window, f"[{number}, {low}, {high}]"),
                        )


def _views() -> None:
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
                raw_attrs=[f'data-view="{name}"'],
            ):
                client.ServerTemplate(name=name)


def _welcome(do: Actions) -> None:
    with html.Div(v_if="!images.length", classes="welcome"), html.Div(classes="card"):
        v3.VIcon(icon="mdi-layers-triple-outline", size=44, color="primary")
        html.H2("Segment from a few scribbles")
        html.P(
            "Load a CT and an MR of one patient, or a single image. Draw on a few slices, then let CmFNet do the "
            "rest. NIfTI, NRRD, MHA and DICOM folders; drop files anywhere."
        )
        with html.Div(classes="buttons centred"):
            html.Button("Choose files", classes="button primary", raw_attrs=['data-open="cms-files"'])
            html.Button("DICOM folder", classes="button", raw_attrs=['data-open="cms-folder"'])
            html.Button("Try the phantom", classes="button", click=(do.phantom, "[]"), disabled=("loading !== ''",))
        html.P("{{ loading }}", v_if="loading", classes="dim")


def _messages() -> None:
    with html.Div(v_if="error", classes="message error", raw_attrs=['role="alert"']):
        v3.VIcon(icon="mdi-alert-circle-outline", size=20)
        html.Span("{{ error }}", classes="grow")
        with html.Button(classes="icon-button", click="error = ''", raw_attrs=['aria-label="Close"']):
            v3.VIcon(icon="mdi-close", size=18)


def _slider(name: str, low: float, high: float, step: float, hint: str, classes: str) -> None:
    html.Input(
        type="range",
        classes=f"slider {classes}",
        value=(name,),
        input=f"{name} = Number($event.target.value)",
        raw_attrs=[f'min="{low}"', f'max="{high}"', f'step="{step}"', f'aria-label="{hint}"', f'id="cms-{name}"'],
    )
