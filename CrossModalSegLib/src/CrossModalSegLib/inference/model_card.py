"""What a trained model says about itself: everything needed to use it, and where it comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from CrossModalSegLib.config import from_dict, to_dict
from CrossModalSegLib.data.preprocess import Preprocessing
from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.errors import InputError, ModelError
from CrossModalSegLib.labels import LabelTable

FORMAT = "crossmodalseg-model-1"
# In use most slices of a volume lack an organ, in training few do, so one half would be too easily reached.
LEAST_PRESENCE = 0.85
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ModelCard:
    """The content of a model.json.

    Attributes:
        name: Letters, digits, ".", "_" and "-".
        architecture: Name of the network in `models.factory`.
        network: Configuration of the network.
        modalities: Names of the images in the order of the network's channels.
        labels: The classes.
        preprocessing: How images become network input.
        patch: Window size (k, j, i) of the training, or None.
        provenance: Data, method, settings, hardware, dates; anything JSON can hold.
        metrics: Results of the validation.
        licence: Of the weights.
        seed: Of the training, or None.
        versions: Of the libraries at training time.
        weights_sha256: Of the model.safetensors beside it; filled in by `save_model`.
        slices: How volumes become input of a 2D network, in place of `preprocessing`; None for 3D networks.
        least_presence: Of a referring network: from this probability on an organ counts as present in a slice.
    """

    name: str
    architecture: str
    network: dict[str, Any]
    modalities: tuple[str, ...]
    labels: LabelTable
    preprocessing: Preprocessing = Preprocessing()
    patch: tuple[int, int, int] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    weights_sha256: str | None = None
    slices: SlicePreprocessing | None = None
    least_presence: float = LEAST_PRESENCE

    def __post_init__(self) -> None:
        check_model_name(self.name)
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ModelError(f"A model needs at least one modality, each named once; got {self.modalities}.")
        if self.patch is not None and (len(self.patch) != 3 or min(self.patch) < 1):
            raise ModelError(f"A model's patch size is three positive numbers (k, j, i); got {self.patch}.")
        if not 0.0 <= self.least_presence <= 1.0:
            raise ModelError(f"A model's least presence is a probability within 0 and 1; got {self.least_presence}.")

    @property
    def task(self) -> Literal["segment", "fit", "refer"] | None:
        """What the model is for; None for those that were only made to be compared with."""
        if self.architecture == "crossmr":
            return "refer"
        if self.slices is not None:
            return None
        return "fit" if self.network.get("prompt_channels") else "segment"

    def to_json(self) -> dict[str, Any]:
        """The card as plain dicts and lists, with the format's name first."""
        data: dict[str, Any] = {"format": FORMAT}
        for item in fields(self):
            data[item.name] = getattr(self, item.name)
        data["labels"] = self.labels.to_json()
        data["preprocessing"] = to_dict(self.preprocessing)
        data["modalities"] = list(self.modalities)
        data["patch"] = None if self.patch is None else list(self.patch)
        data["slices"] = None if self.slices is None else to_dict(self.slices)
        return data

    @classmethod
    def from_json(cls, data: object) -> ModelCard:
        """The card that `to_json` gave.

        Raises:
            ModelError: Another format, an unknown or missing key, or a wrong value; the key is named.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ModelError(f'A model.json of the format "{FORMAT}" was expected; got "{found}".')
        content = {key: value for key, value in data.items() if key != "format"}
        labels = _parsed("labels", LabelTable.from_json, content.pop("labels", None))
        preprocessing = _parsed("preprocessing", _preprocessing, content.pop("preprocessing", None))
        slices = content.pop("slices", None)
        if slices is not None:
            slices = _parsed("slices", _slices, slices)
        plain = _parsed("model.json", _plain_fields, content)
        return cls(labels=labels, preprocessing=preprocessing, slices=slices, **plain)


@dataclass(frozen=True)
class _PlainFields:
    """The fields of a card that JSON holds as they are, for strict reading."""

    name: str
    architecture: str
    network: dict[str, Any]
    modalities: tuple[str, ...]
    patch: tuple[int, int, int] | None
    provenance: dict[str, Any]
    metrics: dict[str, Any]
    licence: str
    seed: int | None
    versions: dict[str, str]
    weights_sha256: str | None
    least_presence: float = LEAST_PRESENCE


def check_segments(card: ModelCard) -> None:
    """ModelError unless a model segments volumes from their images alone."""
    if card.task == "segment":
        return
    needs = {
        "fit": "scribbles beside the images: it is one for `fit`",
        "refer": "a scribbled reference image: it is one for `refer`",
    }.get(card.task, "single slices: it was made for comparisons")
    raise ModelError(f"The model {card.name} needs {needs}. Choose another one to segment images alone.")


def check_model_name(name: str) -> None:
    """ModelError unless `name` can be the name of a folder everywhere."""
    if not NAME_PATTERN.fullmatch(name):
        raise ModelError(
            f'"{name}" cannot be the name of a model: use up to 64 letters, digits, ".", "_" and "-", beginning with '
            "a letter or digit."
        )


def _plain_fields(data: object) -> dict[str, Any]:
    return vars(from_dict(_PlainFields, data))


def _preprocessing(data: object) -> Preprocessing:
    return from_dict(Preprocessing, data)


def _slices(data: object) -> SlicePreprocessing:
    return from_dict(SlicePreprocessing, data)


def _parsed(what: str, parse: Any, data: object) -> Any:
    try:
        return parse(data)
    except InputError as error:
        raise ModelError(f"The model.json is not usable, see {what}: {error}") from error
