"""`crossmodalseg worker`: the process that panels and pages work with; it is not for people."""

from __future__ import annotations

from dataclasses import dataclass

EXAMPLE = "crossmodalseg worker"


@dataclass(frozen=True)
class Arguments:
    """Answer requests, one JSON message a line, on standard input and output; `worker.client` is the other end."""


def run(args: Arguments) -> int:  # noqa: ARG001 - every command has the same form
    """Serve until the other end is gone."""
    from CrossModalSegLib.worker.server import serve

    return serve()
