"""How much, and in which style, one has to scribble: `refer` on real MR of CHAOS, one table for each model.

    python Testing/benchmarks/refer_scribbles.py --data DATA --models default=abdomen-mr

The tasks are those of refer_real.py. A column is an amount: one slice of each organ (where it is largest), three slices
of each (evenly over its extent), or all slices; a row is a style. Images are looked at once; each setting only samples
and decodes again. With all slices scribbled, no slice of the same volume is left to measure.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from referring_scores import Referring, Row, Score, hardware, joined, mean, measure, named_models
from referring_tasks import ABDOMEN, Strokes, Task, chaos_pairs

AMOUNTS = {
    "1 slice an organ": Strokes(every=0),
    "3 slices an organ": Strokes(every=0, slices_each=3),
    "all slices": Strokes(every=1),
}
STYLES = ("contour", "skeleton", "freeform")
Setting = tuple[str, str, str]  # kind of task, style, amount


def settings(data: Path, seed: int) -> Iterator[tuple[Setting, Task]]:
    """All strokes on all pairs; those on one pair come together."""
    for kind, reference, target in chaos_pairs(data):
        for style in STYLES:
            for amount, strokes in AMOUNTS.items():
                if not (reference is target and amount == "all slices"):
                    scribbles = replace(strokes, style=style, seed=seed).draw(reference.mask)
                    yield (kind, style, amount), Task(kind, ABDOMEN, reference, target, scribbles)


def rows_of(name: str, answer: Referring, tasks: Sequence[tuple[Setting, Task]]) -> dict[Setting, Row]:
    """A row for each setting, in the order of the tasks."""
    scores: dict[Setting, list[Score]] = {}
    seconds: dict[Setting, float] = {}
    for setting, task in tasks:
        began = time.perf_counter()
        scores.setdefault(setting, []).append(measure(task, answer(task)))
        seconds[setting] = seconds.get(setting, 0.0) + time.perf_counter() - began
    return {
        setting: joined(name, ", ".join(setting), found, seconds[setting] / len(found))
        for setting, found in scores.items()
    }


def table(rows: dict[Setting, Row]) -> Iterator[str]:
    """Mean DSC over the organs, in Markdown."""
    yield f"| reference → target | style | {' | '.join(AMOUNTS)} |"
    yield "|---" * (2 + len(AMOUNTS)) + "|"
    for kind, style in dict.fromkeys(setting[:2] for setting in rows):
        cells = (rows.get((kind, style, amount)) for amount in AMOUNTS)
        written = ("–" if row is None else f"{mean([*row.dsc.values()]):.3f}" for row in cells)
        yield f"| {kind} | {style} | {' | '.join(written)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the strokes")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=MODEL")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(hardware(), flush=True)
    tasks = list(settings(arguments.data, arguments.seed))
    found = []
    for name, model in named_models(arguments.models).items():
        rows = rows_of(name, Referring(model), tasks)
        found += rows.values()
        print(f"\n{name}", *table(rows), sep="\n", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([row.to_json() for row in found], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
