"""Python's threads inside of 3D Slicer."""

import time

_SECONDS = 0.01


def let_threads_run() -> None:
    """Give way for a moment; call it in each poll for what a thread does.

    Qt's event loop keeps Python's lock in 3D Slicer: without this, a thread goes on for one step a poll.
    """
    time.sleep(_SECONDS)
