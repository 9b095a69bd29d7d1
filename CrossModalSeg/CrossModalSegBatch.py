"""All cases of a cohort without a window, in 3D Slicer or plain Python.

    Slicer --no-main-window --python-script CrossModalSegBatch.py -- segment --cohort cohort.json --model DIR --out DIR
    python CrossModalSegBatch.py refer --cohort cohort.json --model DIR --out DIR --reference t1

For each case, OUT/CASE holds NAME.seg.nrrd and NAME.nii.gz on the grid of the volume they are about; such a folder
appears complete or not at all. OUT/report.json and OUT/report.csv tell of all cases. A case that fails is reported, the
others go on. Exit code: 0 all cases are done, 1 some failed, 2 wrong arguments (nothing is written), 130 stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DONE, SOME_FAILED, WRONG, STOPPED = 0, 1, 2, 130


class CrossModalSegBatch:
    """Slicer takes each file beside a module for a module; this one has no panel."""

    def __init__(self, parent) -> None:
        parent.title, parent.hidden = "CrossModalSeg batch", True


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage."""

    def error(self, message: str) -> None:
        self.exit(_wrong(f"{message[:1].upper()}{message[1:]}; `{self.prog} --help` lists all options."))


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    top = _Parser(
        prog="CrossModalSegBatch.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = top.add_subparsers(dest="action", required=True, metavar="segment|refer|fit")
    segment = _action(actions, "segment", "segment by a trained model, without scribbles")
    segment.add_argument("--model", required=True, help="model folder, or name of an installed model")
    refer = _action(actions, "refer", "from the scribbles on one image of each case to all its images")
    refer.add_argument("--model", help="model folder or name; the default model where not given")
    refer.add_argument(
        "--reference", metavar="MODALITY", help="which image is scribbled on; the cohort's first where not given"
    )
    refer.add_argument(
        "--pieces",
        choices=["all", "large", "largest"],
        default="large",
        help="which connected pieces of a structure stay; large ones have a fifth of the largest, or more",
    )
    refer.add_argument("--tune", type=float, default=0.0, metavar="SECONDS", help="learn from the strokes first")
    fit = _action(actions, "fit", "segment each case from its scribbles")
    fit.add_argument("--model", help="prompted model to start from; the one that ships where not given")
    fit.add_argument("--seconds", type=float, default=120.0, help="for tuning; 0 stops at the first answer")
    fit.add_argument("--seed", type=int, default=0, help="of every random choice")
    for each in (segment, fit):
        each.add_argument("--uncertainty", action="store_true", help="write the uncertainty, too")
    return top


def main(words: list[str]) -> int:
    """Run the batch; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that lacks a character shows another one
    try:
        arguments = parser().parse_args(words)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else WRONG
    # The script's folder is not on the path inside of 3D Slicer.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    try:
        import CrossModalSegLib.batch  # noqa: F401 - whether it can be
    except ImportError as error:
        return _wrong(
            f"The library CrossModalSegLib cannot be used ({error}). Install it by the panel of the module "
            "CrossModalSeg in 3D Slicer, or by pip."
        )
    return _run(arguments)


def _action(actions: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
    action.add_argument("--cohort", type=Path, required=True, help="cohort file (.json, .csv) or raw folder of nnU-Net")
    action.add_argument("--out", type=Path, required=True, help="folder for the results; new, or with --resume")
    action.add_argument(
        "--modalities", nargs="+", metavar="NAME", help="images to use; all of the cohort's if not given"
    )
    action.add_argument("--probabilities", action="store_true", help="write the probability of each structure, too")
    action.add_argument("--device", default="auto", help='"auto", "cpu", "cuda", "cuda:1", "mps"')
    action.add_argument("--resume", action="store_true", help="skip cases that an earlier run into OUT has finished")
    return action


def _run(arguments: argparse.Namespace) -> int:
    from CrossModalSegPanel import installation

    from CrossModalSegLib.batch import BatchSettings, check_batch, run_batch
    from CrossModalSegLib.cli.cohorts import read_any_cohort
    from CrossModalSegLib.errors import CrossModalSegError
    from CrossModalSegLib.worker.client import WorkerClient

    client = WorkerClient([installation.python_command(), "-m", "CrossModalSegLib", "worker"])
    is_checked = False
    try:
        named = vars(arguments)
        settings = BatchSettings(
            action=named["action"],
            model=named["model"],
            modalities=None if named["modalities"] is None else tuple(dict.fromkeys(named["modalities"])),
            reference=named.get("reference"),
            seconds=named.get("seconds", 120.0),
            pieces=named.get("pieces", "large"),
            tune_seconds=named.get("tune", 0.0),
            probabilities=named["probabilities"],
            uncertainty=named.get("uncertainty", False),
            device=named["device"],
            seed=named.get("seed", 0),
        )
        cohort = read_any_cohort(arguments.cohort)
        batch = check_batch(
            cohort, arguments.cohort, settings, arguments.out, client, resume=arguments.resume, alive=_keep_alive
        )
        is_checked = True
        failed = run_batch(batch, _say)
    except KeyboardInterrupt:
        return _wrong("Stopped on request; add --resume to go on.", STOPPED)
    except CrossModalSegError as error:
        return _wrong(str(error), SOME_FAILED if is_checked else WRONG)
    finally:
        client.stop()
    _say(f"{len(cohort.cases) - failed} of {len(cohort.cases)} cases are done: {arguments.out}")
    return SOME_FAILED if failed else DONE


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _wrong(sentence: str, code: int = WRONG) -> int:
    sys.stderr.write(f"error: {' '.join(sentence.split())}\n")
    sys.stderr.flush()
    return code


def _application():
    """3D Slicer's application, or None in plain Python."""
    slicer = sys.modules.get("slicer")
    return getattr(slicer, "app", None)


def _keep_alive() -> None:
    app = _application()
    if app is not None:
        app.processEvents()


def _start() -> None:
    words, code = sys.argv[1:], SOME_FAILED
    try:
        code = main(words[1:] if words[:1] == ["--"] else words)
    finally:
        # 3D Slicer goes on after a script that failed, and without a window nobody could close it.
        if _application() is not None:
            sys.modules["slicer"].util.exit(code)
    if _application() is None:
        sys.exit(code)


if __name__ == "__main__":
    _start()
