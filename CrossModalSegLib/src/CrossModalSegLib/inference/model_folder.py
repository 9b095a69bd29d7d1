"""Trained models on disk: a folder with `model.safetensors` and `model.json`. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from CrossModalSegLib.config import parse_json
from CrossModalSegLib.errors import CrossModalSegError, InputError, ModelError, OutputError
from CrossModalSegLib.inference.model_card import NAME_PATTERN, ModelCard
from CrossModalSegLib.models.factory import build_network
from CrossModalSegLib.output import atomic_folder, atomic_path, write_json

if TYPE_CHECKING:
    from CrossModalSegLib.cohort import LoadedCase

logger = logging.getLogger(__name__)

WEIGHTS_FILE, CARD_FILE = "model.safetensors", "model.json"
MODELS_VARIABLE = "CROSSMODALSEG_MODELS"
MAX_CARD_BYTES = 16 * 2**20
WeightsType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network with its weights, in evaluation mode, and its card."""

    network: nn.Module
    card: ModelCard

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        parameter = next(self.network.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device


def save_model(
    folder: str | Path,
    network: nn.Module,
    card: ModelCard,
    *,
    weights: WeightsType = "float32",
    overwrite: bool = False,
) -> Path:
    """Write a model folder; it appears complete or not at all.

    Args:
        folder: Where. With `overwrite`, the two model files in an existing folder are replaced and its other files
            are left alone.
        network: Its state is saved.
        card: Its `weights_sha256` is filled in.
        weights: Type in which floating-point weights are stored; "bfloat16" and "float16" halve the file.
        overwrite: Whether an existing model may be replaced.

    Returns:
        The folder.

    Raises:
        OutputError: The folder exists and holds something, or cannot be written.
        ModelError: Weights are NaN or infinite: such a model could not be loaded.
    """
    folder = Path(folder)
    tensors = _stored_tensors(network, getattr(torch, weights))
    spoilt = _not_finite(tensors)
    if spoilt is not None:
        raise ModelError(
            f"The model {card.name} is not written: the training diverged, so that its weights hold NaN or infinite "
            f"values in {spoilt}. Lower the learning rate, or compute in fp32."
        )
    if overwrite and folder.is_dir():
        with atomic_path(folder / CARD_FILE) as card_path, atomic_path(folder / WEIGHTS_FILE) as weights_path:
            _write(tensors, card, weights_path, card_path)
        return folder
    with atomic_folder(folder) as temporary:
        _write(tensors, card, temporary / WEIGHTS_FILE, temporary / CARD_FILE)
    return folder


def load_model(folder_or_name: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a model, checked in full.

    Args:
        folder_or_name: A model folder, or the name of a model that ships with the library or was installed with
            `import_model`.
        device: Where to put the network.

    Raises:
        ModelError: There is no such model, or it is damaged, foreign, or not what its card says.
    """
    folder = find_model(folder_or_name)
    card = read_card(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ModelError(f"The model folder '{folder}' has no {WEIGHTS_FILE}: copy the whole folder again.")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in _build(card).state_dict().items()}
    # Before anything is allocated: a foreign file may name a network of any size.
    _check_shapes(path, shapes)
    if card.weights_sha256 is not None and _sha256(path) != card.weights_sha256:
        raise ModelError(f"The weights '{path}' are not those its {CARD_FILE} was written for: copy both again.")
    network = _build(card)
    network.load_state_dict(_load_tensors(path, network.state_dict()))
    _check_card_fits(network, card, folder)
    return LoadedModel(network.eval().to(device), card)


def read_card(folder: str | Path) -> ModelCard:
    """The card of a model folder.

    Raises:
        ModelError: The folder has no model.json, or it is not usable.
    """
    path = Path(folder) / CARD_FILE
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise ModelError(f"'{path}' is larger than {MAX_CARD_BYTES >> 20} MB: it is not a model card.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"'{folder}' is not a model folder: its {CARD_FILE} cannot be read ({error}). "
            f"A model folder holds {WEIGHTS_FILE} and {CARD_FILE}."
        ) from error
    try:
        return ModelCard.from_json(parse_json(text, f"'{path}'"))
    except InputError as error:
        raise ModelError(str(error)) from error


def check_inputs(card: ModelCard, loaded: LoadedCase) -> None:
    """Check that a case has the images a model needs; images that it does not use are named in a warning.

    Raises:
        ModelError: One is missing.
    """
    missing = [name for name in card.modalities if name not in loaded.images]
    if missing:
        raise ModelError(
            f"The model {card.name} needs the images {', '.join(card.modalities)}; given: "
            f"{', '.join(loaded.images) or 'none'}. Add {', '.join(missing)} or choose another model."
        )
    unused = [name for name in loaded.images if name not in card.modalities]
    if unused:
        logger.warning("The model %s does not use the images %s.", card.name, ", ".join(unused))


def models_folder() -> Path:
    """Where installed models live: $CROSSMODALSEG_MODELS, or the user's data folder."""
    chosen = os.environ.get(MODELS_VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "CrossModalSeg" / "models"


def shipped_models_folder() -> Path:
    """Where the models that come with the library live."""
    return Path(str(resources.files("CrossModalSegLib"))) / "weights"


def list_models() -> dict[str, Path]:
    """Installed and shipped models by name; an installed one hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for base in (shipped_models_folder(), models_folder()):
        if base.is_dir():
            found.update({each.name: each for each in sorted(base.iterdir()) if (each / CARD_FILE).is_file()})
    return found


def find_model(folder_or_name: str | Path) -> Path:
    """The folder of a model given by path or by name.

    Raises:
        ModelError: There is none.
    """
    folder = Path(folder_or_name)
    known = list_models() if NAME_PATTERN.fullmatch(str(folder_or_name)) else {}
    # A folder of images that happens to lie where the program was started is not meant.
    if folder.is_dir() and ((folder / CARD_FILE).is_file() or str(folder_or_name) not in known):
        return folder
    if str(folder_or_name) in known:
        return known[str(folder_or_name)]
    raise ModelError(
        f"There is no model folder '{folder_or_name}', and no installed model of that name; "
        f"installed are: {', '.join(list_models()) or 'none'}."
    )


def _write(tensors: dict[str, Tensor], card: ModelCard, weights_path: Path, card_path: Path) -> None:
    try:
        save_file(tensors, weights_path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OutputError(
            f"The weights of the model {card.name} cannot be written ({error}); free some space or name another place."
        ) from error
    write_json(replace(card, weights_sha256=_sha256(weights_path)).to_json(), card_path)
    shutil.copymode(card_path, weights_path)  # safetensors lets nobody else read it


def _stored_tensors(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    # Cloned, because safetensors refuses tensors that share memory.
    return {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).clone().contiguous()
        for name, tensor in network.state_dict().items()
    }


def _build(card: ModelCard) -> nn.Module:
    try:
        return build_network(card.architecture, card.network)
    except (CrossModalSegError, TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise ModelError(f"The network of the model {card.name} cannot be built: {error}") from error


def _check_shapes(path: Path, expected: dict[str, tuple[int, ...]]) -> None:
    try:
        with safe_open(path, framework="pt") as stored:
            found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"'{path}' is damaged or not a safetensors file ({error}): copy it again.") from error
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelError(
                f"The weights '{path}' do not belong to the network in {CARD_FILE}: for {name} it needs the shape "
                f"{expected.get(name, 'no such tensor')}, the file has {found.get(name, 'no such tensor')}."
            )


def _load_tensors(path: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"'{path}' is damaged or not a safetensors file ({error}): copy it again.") from error
    tensors = {name: tensor.to(like[name].dtype) for name, tensor in stored.items()}
    spoilt = _not_finite(tensors)
    if spoilt is not None:
        raise ModelError(f"The weights '{path}' hold NaN or infinite values in {spoilt}: the model is not usable.")
    return tensors


def _not_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of a tensor with NaN or infinite values, or None."""
    bad = (name for name, each in tensors.items() if each.is_floating_point() and not torch.isfinite(each).all())
    return next(bad, None)


def _check_card_fits(network: nn.Module, card: ModelCard, folder: Path) -> None:
    config = getattr(network, "config", None)
    images = len(card.modalities)
    expected = {"num_classes": card.labels.num_classes, "modalities": images}
    if not hasattr(config, "modalities"):
        expected["in_channels"] = images + getattr(config, "prompt_channels", 0)
    for what, number in expected.items():
        actual = getattr(config, what, number)
        if actual != number:
            raise ModelError(
                f"The {CARD_FILE} of '{folder}' contradicts itself: the network has {what} = {actual}, "
                f"its labels and modalities ask for {number}."
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
