"""The parts of an exported MONAI bundle that MONAI does not have: reading a case as the model was trained to, the
network as MONAI calls it, windows as `segment` lays them, and writing the segmentation on the case's own grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from monai.transforms import Transform
from torch import Tensor, nn

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.config import parse_json
from CrossModalSegLib.data.preprocess import prepare_case
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.predictor import Precision, Shape3, predict
from CrossModalSegLib.inference.segment import labels_from_probabilities
from CrossModalSegLib.io import read_volume, write_segmentation
from CrossModalSegLib.io.image_io import READABLE
from CrossModalSegLib.models.factory import build_network
from CrossModalSegLib.volume import require_same_geometry

logger = logging.getLogger(__name__)


class BundleNetwork(nn.Module):
    """A network of this library called as MONAI does: images (N, M, k, j, i) in, logits (N, K + 1, k, j, i) out.

    Attributes:
        divisor, fixed_patch: what `predict` asks a network for.
    """

    def __init__(self, architecture: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = build_network(architecture, dict(config))
        self.divisor = getattr(self.network, "divisor", 1)
        self.fixed_patch = getattr(self.network, "fixed_patch", None)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        segment = getattr(self.network, "segment", None)
        return segment(images) if segment is not None else self.network(images)["out"]

    def segment(self, images: Tensor) -> Tensor:
        """Logits, under the name by which `predict` calls a network."""
        return self(images)


class VolumeInferer(Inferer):
    """Images (1, M, k, j, i) to probabilities (1, K + 1, k, j, i), on the CPU, as `crossmodalseg segment` gets them:
    from the whole volume, or the largest windows that fit into memory. MONAI's sliding window would take windows of
    one size and blend logits, and so give other answers."""

    def __init__(self, patch: Shape3 | None = None, overlap: float = 0.25, precision: Precision = "bf16") -> None:
        """Options as in `predict`."""
        super().__init__()
        self.options = {"patch": patch, "overlap": overlap, "precision": precision}

    def __call__(self, inputs: Tensor, network: nn.Module, *_args: Any, **_kwargs: Any) -> Tensor:
        """Probabilities."""
        return torch.from_numpy(predict(network, inputs[0], **self.options))[None]


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """The network with the state dict of a bundle's model.pt; nothing but tensors is unpickled."""
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def read_bundle_card(path: str | Path) -> ModelCard:
    """The model card that the bundle carries."""
    return ModelCard.from_json(parse_json(Path(path).read_text(encoding="utf-8"), f"'{path}'"))


def find_cases(folder: str | Path, modalities: Sequence[str]) -> list[dict[str, str]]:
    """Cases of a folder: each of its sub-folders that has an image named after every modality, such as ct.nii.gz.

    Those that lack one are named in a warning.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    cases = []
    for each in sorted(path for path in folder.iterdir() if path.is_dir()):
        images = {name: _image_of(each, name) for name in modalities}
        missing = [name for name, path in images.items() if path is None]
        if missing:
            logger.warning("The case %s is left out: it has no image named %s.", each.name, ", ".join(missing))
        else:
            cases.append({"name": each.name, **{name: str(path) for name, path in images.items()}})
    return cases


class PrepareCase(Transform):
    """{"name": .., modality: path, ..} -> {"image": (M, k, j, i) float32, "prepared": PreparedCase}."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def __call__(self, data: Mapping[str, str]) -> dict[str, Any]:
        missing = [name for name in self.card.modalities if name not in data]
        if missing:
            raise InputError(f"The case needs an image path for {', '.join(missing)}; got {', '.join(data)}.")
        images = {name: read_volume(data[name]) for name in self.card.modalities}
        require_same_geometry(**images)
        name = data.get("name") or Path(data[self.card.modalities[0]]).name.split(".")[0]
        loaded = LoadedCase(name=name, images=images, scribbles=None, mask=None)
        prepared = prepare_case(loaded, self.card.preprocessing, modalities=self.card.modalities)
        return {"image": torch.from_numpy(prepared.images), "prepared": prepared}


class BundleEvaluator:
    """Segments every case of a dataset and writes <output>/<case>.seg.nrrd."""

    def __init__(
        self,
        device: torch.device,
        dataset: Sequence[Mapping[str, Any]],
        network: nn.Module,
        inferer: Callable[[Tensor, nn.Module], Tensor],
        card: ModelCard,
        output_dir: str | Path,
    ) -> None:
        self.device = device
        self.dataset = dataset
        self.network = network
        self.inferer = inferer
        self.card = card
        self.output_dir = Path(output_dir)

    def run(self) -> list[Path]:
        """The files written."""
        if len(self.dataset) == 0:
            raise InputError(
                "The bundle found no case: put each case into a folder of its own in dataset_dir, with images named "
                f"{', '.join(f'{name}.nii.gz' for name in self.card.modalities)}."
            )
        return [self._segment(self.dataset[index]) for index in range(len(self.dataset))]

    def _segment(self, item: Mapping[str, Any]) -> Path:
        prepared = item["prepared"]
        probabilities = self.inferer(item["image"][None], self.network.to(self.device))[0].numpy()
        result = labels_from_probabilities(probabilities, prepared)
        path = self.output_dir / f"{prepared.name}.seg.nrrd"
        write_segmentation(result.labels, self.card.labels, path)
        logger.info("Wrote %s.", path)
        return path


def _image_of(folder: Path, modality: str) -> Path | None:
    for suffix in READABLE:
        path = folder / f"{modality}{suffix}"
        if path.is_file():
            return path
    return None
