"""`crossmodalseg train crossmr`: settings from preset, file and options, and a training from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli_support import run
from referring_setup import tiny_referring_config
from training_cohort import make_cohort

from CrossModalSegLib.cli import train_crossmr
from CrossModalSegLib.cli.commands import COMMANDS
from CrossModalSegLib.cli.main import parse
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.inference.model_folder import load_model
from CrossModalSegLib.training.referring.config import ReferringConfig, preset
from CrossModalSegLib.training.working_folder import sole_training


def config_of(*words: object) -> ReferringConfig:
    command = next(each for each in COMMANDS if each.name == "train crossmr")
    return train_crossmr.referring_config(parse(command, ["--cohort", "c.json", "--out", "m", *map(str, words)]))


def test_the_preset_holds_where_nothing_is_said() -> None:
    assert config_of() == preset("default")
    assert config_of("--preset", "paper") == preset("paper")
    assert config_of("--preset", "paper", "--ablation", "no-tokens") == preset("paper", "no-tokens")


@pytest.mark.parametrize(("option", "name"), [("minutes", "minutes"), ("steps", "steps"), ("epochs", "epochs")])
def test_a_length_replaces_that_of_the_preset(option: str, name: str) -> None:
    for base in ("paper", "default"):
        config = config_of("--preset", base, f"--{option}", 7)
        assert {each: getattr(config, each) for each in ("minutes", "steps", "epochs")} == {
            "minutes": None, "steps": None, "epochs": None, name: 7,
        }  # fmt: skip


def test_there_are_no_fewer_neighbour_slices_than_none() -> None:
    with pytest.raises(InputError, match="--context should be 0 or above, got -1"):
        config_of("--context", -1)


def test_options_change_what_they_name() -> None:
    config = config_of(
        "--modalities", "t1", "t2", "--reference-modality", "t1", "--batch-size", 3, "--learning-rate", 1e-4,
        "--image-size", 160, "--context", 1, "--validation-share", 0.25, "--workers", 2, "--seed", 5,
    )  # fmt: skip
    default = preset("default")
    network = replace(
        default.network, image_size=160, context=1, encoder=replace(default.network.encoder, in_channels=3)
    )
    assert config == replace(
        default,
        network=network,
        preprocessing=replace(default.preprocessing, image_size=160),
        pairs=replace(default.pairs, context=1),
        modalities=("t1", "t2"),
        reference_modalities=("t1",),
        batch_size=3,
        learning_rate=1e-4,
        validation_share=0.25,
        num_workers=2,
        seed=5,
    )


def test_options_come_before_the_file_and_it_before_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"batch_size": 3, "seed": 4, "pairs": {"max_organs": 2}}), encoding="utf-8")
    config = config_of("--config", path, "--seed", 9)
    default = preset("default")
    assert config == replace(default, batch_size=3, seed=9, pairs=replace(default.pairs, max_organs=2))


def test_a_length_is_given_once() -> None:
    with pytest.raises(InputError, match="given once: as --minutes, --steps or --epochs"):
        config_of("--minutes", 1, "--steps", 2)


def test_a_training_makes_a_model_and_says_how_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_cohort(tmp_path)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(to_dict(tiny_referring_config(steps=2))), encoding="utf-8")
    out = tmp_path / "m"
    words = ("train", "crossmr", "--cohort", tmp_path / "cohort.json", "--out", out, "--config", settings)
    ended = run(capsys, *words, "--licence", "CC0", "--device", "cpu", "--quiet")
    assert ended.code == 0 and f"crossmodalseg refer --model {out}" in ended.out
    assert load_model(out).card.licence == "CC0"
    assert "is not empty" in run(capsys, *words, "--device", "cpu", "--quiet").error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--modalities", "pd"), "to train on are pd; the cohorts have ct, mr"),
        (("--minutes", "0"), "--minutes should be above 0"),
        (("--image-size", "100"), "multiple of 32; got 100"),
    ],
)
def test_wrong_options_are_sentences_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    make_cohort(tmp_path)
    words = ("train", "crossmr", "--cohort", tmp_path / "cohort.json", "--out", tmp_path / "m")
    assert message in run(capsys, *words, *options, "--quiet").error
    assert not [each for each in tmp_path.iterdir() if each.name.startswith("m")]


@pytest.mark.parametrize(
    "words",
    [
        ("cmfnet", "--cohort"),
        ("crossmr", "--cohort"),
        ("prior", "--cohorts"),
    ],
)
def test_two_trainings_at_once_do_not_share_a_folder(
    words: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_cohort(tmp_path, 2)
    out = tmp_path / "m"
    with sole_training(tmp_path / "m.training"):
        result = run(capsys, "train", *words, tmp_path / "cohort.json", "--out", out, "--device", "cpu", "--quiet")
        assert "Another training runs in" in result.error
    assert [path.name for path in tmp_path.glob("m*")] == []
