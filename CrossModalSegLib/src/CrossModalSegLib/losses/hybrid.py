"""The hybrid-supervised loss of CmFNet (Eqs. 4 and 7 to 9) with every switch of Table VII."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.consistency import inter_modal_consistency
from CrossModalSegLib.losses.crf import CrfConfig, CrfKernel, Spacing, multi_view_crf
from CrossModalSegLib.losses.inside import inside_count
from CrossModalSegLib.losses.labelled_voxels import scribble_losses

BRANCHES = ("out", "ct", "mr")
# Standard deviations between the intensity given to padding and that of every voxel: the kernel is 0 there.
FAR = 20.0


@dataclass(frozen=True)
class HybridConfig:
    """Scribble supervision, intra-modal regularisation and inter-modal consistency.

    Attributes:
        ssl: Scribble-supervised learning of all branches (Eq. 4).
        imr: Intra-modal regularisation of the fused prediction with the multi-view CRF (Eq. 7).
        imc: Inter-modal consistency (Eq. 8).
        lambda_ct, lambda_mr: Weights of the CT's and of the MR's CRF. (Eq. 7 prints lambda_ct twice.) For a single
            modality both act on its one image.
        alpha1, alpha2: Weights of the consistency with the CT and with the MR branch.
        dice_weight: Of the partial Dice beside the partial cross-entropy; 0, the paper, leaves it out.
        radius: Half width of the CRF's window, in `unit`.
        sigma_position: Spatial standard deviation of the CRF's image kernels, in `unit`.
        sigma_intensity: Intensity standard deviation of the CRF's image kernels, for images in [0, 1].
        spatial_weight: Of an additional purely spatial kernel (PyMIC's form); 0 leaves it out.
        sigma_spatial: Its standard deviation, in `unit`.
        unit: "voxel" (edges of the finest axis) or "mm".
        ramp_up_epochs: Epochs in which the weight of the CRF rises as exp(-5 (1 - t)^2), as PA-Seg does it over 30;
            0: from the start at full weight (the paper does not say).
        detach_fused: The consistency pulls the single-modal branches only (the paper does not say).
    """

    ssl: bool = True
    imr: bool = True
    imc: bool = True
    lambda_ct: float = 0.2
    lambda_mr: float = 0.2
    alpha1: float = 0.8
    alpha2: float = 0.8
    dice_weight: float = 0.0
    radius: float = 5.0
    sigma_position: float = 6.0
    sigma_intensity: float = 0.1
    spatial_weight: float = 0.0
    sigma_spatial: float = 3.0
    unit: Literal["voxel", "mm"] = "voxel"
    ramp_up_epochs: int = 0
    detach_fused: bool = False

    def __post_init__(self) -> None:
        if not (self.ssl or self.imr or self.imc):
            raise InputError("The hybrid loss needs at least one of ssl, imr and imc; all are switched off.")
        weights = ("lambda_ct", "lambda_mr", "alpha1", "alpha2", "dice_weight", "spatial_weight", "ramp_up_epochs")
        for name in weights:
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} of the hybrid loss must be 0 or more; got {getattr(self, name)}.")
        self.crf()

    def crf(self) -> CrfConfig:
        """The configuration of the CRF."""
        kernels = [CrfKernel(1.0, self.sigma_position, self.sigma_intensity)]
        if self.spatial_weight > 0:
            kernels.append(CrfKernel(self.spatial_weight, self.sigma_spatial, None))
        return CrfConfig(kernels=tuple(kernels), radius=self.radius, unit=self.unit)

    def ramp(self, epoch: float | None) -> float:
        """The factor of the CRF at an epoch, in (0, 1]; None: after the ramp."""
        if epoch is None or self.ramp_up_epochs == 0 or epoch >= self.ramp_up_epochs:
            return 1.0
        return math.exp(-5.0 * (1.0 - max(0.0, epoch) / self.ramp_up_epochs) ** 2)


def hybrid_loss(
    logits: Mapping[str, Tensor],
    images: Tensor,
    scribbles: Tensor,
    config: HybridConfig,
    spacing: Spacing | None = None,
    epoch: float | None = None,
    inside: Tensor | None = None,
) -> dict[str, Tensor]:
    """L_total = L_ssl + L_imr + L_imc, Eq. 9.

    Args:
        logits: "out" (y_mm) and, where the network has them, "ct" and "mr": (N, C, k, j, i) each. Other keys are
            ignored. Without CFE there are "out" (y_ct) and "mr", whose consistency has the weight alpha2. Without
            single-modal branches the consistency is left out.
        images: (N, M, k, j, i) in [0, 1]: CT then MR, or one modality. Only these: no prompt channels.
        scribbles: (N, k, j, i), any integer type: a class 0..C-1, or 255 where nothing is labelled.
        config: Switches and weights.
        spacing: (k, j, i) mm of all samples, or (N, 3), one a sample; None: an isotropic grid.
        epoch: Of the ramp-up, counted from 0; None: after it.
        inside: (N, k, j, i) bool, False where a patch was padded: regularisation and consistency leave such voxels out,
            and are means over the others. None: all are inside.

    Returns:
        Scalars: "pce_out", "pce_ct", "pce_mr" (those there are; with `dice_weight` also "dice_…"), "ssl", "imr", "imc"
        (those switched on, weighted as they enter) and "total".

    Raises:
        InputError: "out" is missing, or the shapes do not fit each other.
    """
    branches = {name: logits[name] for name in BRANCHES if logits.get(name) is not None}
    if "out" not in branches:
        raise InputError(f'The hybrid loss expected logits with the key "out"; got {sorted(logits)}.')
    terms: dict[str, Tensor] = {}
    if config.ssl:
        terms.update(_scribble_terms(branches, scribbles, config.dice_weight))
    uses_consistency = config.imc and len(branches) > 1
    if config.imr or uses_consistency:
        y = {name: _probabilities(value) for name, value in branches.items() if name == "out" or uses_consistency}
        if config.imr:
            terms["imr"] = intra_modal_regularization(y["out"], images, config, spacing, epoch, inside)
        if uses_consistency:
            terms["imc"] = inter_modal_consistency(
                y["out"], y.get("ct"), y.get("mr"), config.alpha1, config.alpha2, config.detach_fused, inside
            )
    total = sum((terms[name] for name in ("ssl", "imr", "imc") if name in terms), _zero(branches["out"]))
    return {**terms, "total": total}


def intra_modal_regularization(
    probabilities: Tensor,
    images: Tensor,
    config: HybridConfig,
    spacing: Spacing | None = None,
    epoch: float | None = None,
    inside: Tensor | None = None,
) -> Tensor:
    """lambda_ct L_mcrf(y_mm; CT) + lambda_mr L_mcrf(y_mm; MR), Eq. 7, times the ramp.

    Args:
        probabilities: y_mm, (N, C, k, j, i).
        images: (N, 1 or 2, k, j, i) in [0, 1].
        config: Weights, window, ramp.
        spacing: As in `hybrid_loss`.
        epoch: As in `hybrid_loss`.
        inside: As in `hybrid_loss`.

    Raises:
        InputError: Not one or two images.
    """
    weights = (config.lambda_ct, config.lambda_mr)
    if images.shape[1] not in (1, 2):
        raise InputError(
            f"The intra-modal regularisation takes CT and MR, or one image; got {images.shape[1]} image channels."
        )
    if images.shape[1] == 1:
        weights = (sum(weights),)
    if inside is not None and not (inside.device.type == "cpu" and bool(inside.all())):  # a GPU would have to be asked
        return config.ramp(epoch) * _crf_inside(probabilities, images, weights, config.crf(), spacing, inside)
    return config.ramp(epoch) * multi_view_crf(probabilities, images, weights, config.crf(), spacing)


def _crf_inside(
    probabilities: Tensor,
    images: Tensor,
    weights: tuple[float, ...],
    crf: CrfConfig,
    spacing: Spacing | None,
    inside: Tensor,
) -> Tensor:
    """The CRF of the voxels inside, as their mean.

    Padding gets one certain class, so that two voxels of it agree, and an intensity so far from all others that it has
    no neighbour inside. A purely spatial kernel sees the padding as such an image instead of the images.
    """
    is_inside = inside[:, None]
    certain = torch.zeros_like(probabilities)
    certain[:, 0] = 1.0
    y = torch.where(is_inside, probabilities, certain)
    total = y.new_zeros(())
    for kernel in crf.kernels:
        if kernel.sigma_intensity is None:
            shown, sigma, image_weights = torch.zeros_like(images[:, :1]), 1.0, (sum(weights),)
        else:
            shown, sigma, image_weights = images, kernel.sigma_intensity, weights
        shown = shown.masked_fill(~is_inside, 1.0 + FAR * sigma)
        single = replace(crf, kernels=(replace(kernel, sigma_intensity=sigma),))
        total = total + multi_view_crf(y, shown, image_weights, single, spacing)
    return total * (inside.numel() / inside_count(y, inside))


def _scribble_terms(branches: Mapping[str, Tensor], scribbles: Tensor, dice_weight: float) -> dict[str, Tensor]:
    """Eq. 4, by branch and summed."""
    pce, dice = scribble_losses(list(branches.values()), scribbles, with_dice=dice_weight > 0)
    terms = {f"pce_{name}": value for name, value in zip(branches, pce)}
    if dice is None:
        return {**terms, "ssl": pce.sum()}
    terms |= {f"dice_{name}": value for name, value in zip(branches, dice)}
    return {**terms, "ssl": pce.sum() + dice_weight * dice.sum()}


def _probabilities(logits: Tensor) -> Tensor:
    return (logits if logits.dtype == torch.float64 else logits.float()).softmax(1)


def _zero(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.float32, device=like.device)
