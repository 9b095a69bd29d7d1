"""Step 3: how to segment, and how a run is going."""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v3

from .actions import Actions
from .elements import VALUE_ATTRIBUTE, chosen_class, step

_SECONDS = {0: "First answer", 30: "30 seconds", 60: "1 minute", 120: "2 minutes", 300: "5 minutes", 900: "15 minutes"}
_PIECES = {"large": "Keep large pieces", "largest": "Keep the largest piece", "all": "Keep all pieces"}
# As in the panel of 3D Slicer: whole seconds, an hour at most.
_TUNE_SECONDS = "Math.min(3600, Math.max(0, Math.round(Number($event.target.value)) || 0))"
_NEEDS_MODEL = "mode === 'refer' || kind === 'segment'"


def run_step(do: Actions) -> None:
    """Make the step."""
    with step(3, "Segment"):
        with html.Div(v_if="!busy"):
            _kinds()
            _pieces()
            _tuning()
            with html.Div(classes="line"):
                _seconds()
                _models()
                _start(do)
        with html.Div(v_if="busy", classes="running"):
            _progress(do)
        with html.Details(v_if="curve", classes="curve", raw_attrs=[':open="busy"']):
            html.Summary("Loss curve")
            html.Div(v_html="curve")
        html.P("{{ note }}", v_if="note", classes="dim hint")


def _kinds() -> None:
    with html.Div(v_if="mode === 'fit'", classes="line"), html.Div(classes="switch"):
        for kind, title in (("fit", "From scribbles"), ("segment", "Trained model")):
            html.Button(
                title,
                classes=chosen_class("switch-part", f"kind === '{kind}'"),
                click=f"kind = '{kind}'",
                raw_attrs=[f""":aria-pressed="kind === '{kind}'\""""],
            )


def _pieces() -> None:
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


def _tuning() -> None:
    hint = 'title="How long a copy of the network learns from the strokes first; 0 answers at once."'
    with html.Div(v_if="mode === 'refer'", classes="line", raw_attrs=[hint]):
        html.Label("Learn first:", classes="dim grow", raw_attrs=['for="cms-tune"'])
        html.Input(
            type="number",
            classes="select small",
            # The field shows what is taken, also where that is what it was before.
            change=f"tune_seconds = $event.target.value = {_TUNE_SECONDS}",
            raw_attrs=[VALUE_ATTRIBUTE.format("tune_seconds"), 'id="cms-tune"', 'min="0"', 'max="3600"', 'step="1"'],
        )
        html.Span("s", classes="dim")


def _seconds() -> None:
    with html.Select(
        v_if="mode === 'fit' && kind === 'fit'",
        classes="select grow",
        change="seconds = Number($event.target.value)",
        raw_attrs=[':value="seconds"', 'aria-label="Time"', 'id="cms-seconds"'],
    ):
        for seconds, title in _SECONDS.items():
            html.Option(title, value=(str(seconds),))


def _models() -> None:
    with html.Select(
        v_if=f"({_NEEDS_MODEL}) && models.length",
        classes="select grow",
        change="model = $event.target.value",
        raw_attrs=[':value="model"', 'aria-label="Model"'],
    ):
        html.Option("{{ each.title }}", v_for="each in models", key="each.value", value=("each.value",))
    html.P("{{ model_hint }}", v_if=f"({_NEEDS_MODEL}) && !models.length", classes="dim grow")


def _start(do: Actions) -> None:
    html.Button(
        "{{ start_title }}",
        classes="button primary",
        # What the person sees: told apart from the click, it may come after it where the page is busy.
        click=(do.start, "[{kind, model, seconds, pieces, tune_seconds}]"),
        disabled=("!can_start",),
        raw_attrs=['id="cms-start"'],
    )


def _progress(do: Actions) -> None:
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
        html.Button(
            "Cancel",
            classes="button danger",
            click=(do.cancel, "[]"),
            raw_attrs=['id="cms-cancel"', 'title="Stop, and drop what this run has found"'],
        )
        html.Button("{{ paused ? 'Resume' : 'Pause' }}", classes="button", click=(do.pause_or_resume, "[]"))
        html.Button(
            "Keep best",
            v_if="can_finish",
            classes="button",
            click=(do.finish, "[]"),
            raw_attrs=['title="Stop, and keep the best answer so far"'],
        )
