"""Step 4: the result, its table, and files to download."""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v3

from .actions import Actions
from .elements import SHOW_OR_HIDE, icon_button, slider, step

_DOWNLOAD = ':title="`Download the segmentation of ${{file.name}}: {}`"'


def results_step(do: Actions) -> None:
    """Make the step."""
    with step(4, "Result"):
        html.P("Nothing segmented yet.", v_if="!has_result", classes="dim hint")
        with html.Div(v_if="has_result"):
            _display()
            _table()
            _measuring()
            _files()
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


def _display() -> None:
    with html.Div(classes="line"):
        html.Span("Opacity", classes="dim")
        slider("opacity", 0, 1, 0.05, "Opacity of the result", classes="grow")
        icon_button(
            (SHOW_OR_HIDE.format("result_visible"),),
            "result_visible = !result_visible",
            'title="Show or hide the segmentation"',
            classes=("'icon-button' + (result_visible ? ' on' : '')",),
            size=18,
        )
        html.Button(
            "3D",
            classes=("'icon-button text' + (result_3d ? ' on' : '')",),
            click="result_3d = !result_3d",
            raw_attrs=['title="Show or hide the surfaces"'],
        )


def _table() -> None:
    with html.Table(v_if="rows.length", classes="table"):
        with html.Thead(), html.Tr():
            html.Th("Structure", raw_attrs=['scope="col"'])
            with html.Th(
                v_for="column in columns",
                key="column.title + column.unit",
                classes="number-cell",
                raw_attrs=[':title="column.hint"', 'scope="col"'],
            ):
                html.Div("{{ column.title }}")
                html.Div("{{ column.unit }}")
        with html.Tbody(), html.Template(v_for="(row, index) in rows", key="index"):
            with html.Tr(v_if="row.first", classes="group"):
                html.Td("{{ row.image }}", colspan=("columns.length + 1",))
            with html.Tr():
                with html.Td():
                    html.Span(classes="dot", style=("`background: ${row.color}`",))
                    html.Span("{{ row.structure }}")
                html.Td("{{ value }}", v_for="(value, at) in row.values", key="at", classes="number-cell")


def _measuring() -> None:
    with html.Div(v_if="measuring", classes="line"):
        v3.VProgressCircular(indeterminate=True, size=14, width=2)
        html.Span("Measuring against the mask", classes="dim")


def _files() -> None:
    with html.Div(v_for="file in files", key="file.id", classes="line"):
        v3.VIcon(icon="mdi-download", size=16)
        html.Span("{{ file.name }}", classes="dim one-line grow")
        html.A(
            ".nii.gz",
            v_if="file.nifti",
            classes="link",
            href=("`download/${file.id}.nii.gz`",),
            raw_attrs=["download", _DOWNLOAD.format("NIfTI label map")],
        )
        html.A(
            ".seg.nrrd",
            classes="link",
            href=("`download/${file.id}.seg.nrrd`",),
            raw_attrs=["download", _DOWNLOAD.format("segmentation for 3D Slicer, with names and colours")],
        )
