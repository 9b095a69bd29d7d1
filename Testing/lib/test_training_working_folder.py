from __future__ import annotations

from pathlib import Path

import pytest

from CrossModalSegLib.errors import Cancelled, InputError, OutputError
from CrossModalSegLib.training.checkpoint import save_checkpoint
from CrossModalSegLib.training.working_folder import no_remains


@pytest.mark.parametrize(
    ("ending", "is_told"),
    [
        (KeyboardInterrupt(), True),
        (Cancelled("stop"), True),
        (OutputError("no space"), True),
        (InputError("other data"), False),
    ],
)
def test_who_stops_a_training_is_told_where_it_goes_on(
    ending: BaseException, is_told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    working = tmp_path / "model.training"
    save_checkpoint(working / "checkpoints", 1, {})
    with pytest.raises(type(ending)), no_remains(working):
        raise ending
    assert working.exists()
    assert (f"kept in '{working}'; resume it" in caplog.text) == is_told


def test_without_a_checkpoint_nothing_remains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    working = tmp_path / "model.training"
    working.mkdir()
    with pytest.raises(KeyboardInterrupt), no_remains(working):
        raise KeyboardInterrupt
    assert not working.exists()
    assert not caplog.text
