"""CmFNet (Fig. 2): two V-Net branches and a cross-modal branch between them.

Notable in this network:
- the CT branch has 3 down-samplings, the MR branch 4 (every CT_d/MR_d combination of Table V is a configuration);
- CFF fuses both encoders' feature maps after the 1st, 2nd and 3rd down-sampling, not at full resolution;
- CFE down-samples and enhances the third fused map; a decoder with the fused maps as skips gives y_mm, the result;
- training uses y_mm, y_ct and y_mr; inference computes y_mm alone, or one of the others alone (`ModalityBranch`);
- a single-modality image goes into both branches;
- optional prompt channels (maps of the user's scribbles) enter both branches beside the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.convolution import Conv3d
from CrossModalSegLib.models.fusion import CrossModalFeatureEnhancement, CrossModalFeatureFusion
from CrossModalSegLib.models.input_check import require_images
from CrossModalSegLib.models.vnet import (
    CONVOLUTIONS_PER_STAGE,
    Normalization,
    UpUnit,
    VNetConfig,
    VNetDecoder,
    VNetEncoder,
    add_residual,
    conv_stack,
)

FUSED_STAGES = (1, 2, 3)


@dataclass(frozen=True)
class CmFNetConfig:
    """CmFNet and its ablations.

    Attributes:
        num_classes: Output channels, background included.
        modalities: 2 for CT and MR; 1 sends the one image into both branches.
        prompt_channels: Further input channels that both branches see.
        ct_depth, mr_depth: The d of CT_d and MR_d, 3 to 6 (Table V).
        base_channels: Channels at full resolution (16 in the paper).
        cfe: The cross-modal branch with its decoder; without it the result is y_ct (Table VI, "MFL"; the paper trains
            it, as all of Table V, with SSL and IMC alone).
        cff: Fused feature maps as the decoder's skips (Table VI, "MFL + CFE + CFF").
    """

    num_classes: int = 2
    modalities: int = 2
    prompt_channels: int = 0
    ct_depth: int = 3
    mr_depth: int = 4
    base_channels: int = 16
    normalization: Normalization = "instance"
    dropout: float = 0.5
    cfe: bool = True
    cff: bool = True

    def __post_init__(self) -> None:
        if self.modalities not in (1, 2):
            raise ModelError(f"CmFNet takes one or two modalities; got {self.modalities}.")
        if self.cff and not self.cfe:
            raise ModelError("CFF feeds the decoder behind CFE: switch cff off as well when cfe is off (Table VI).")
        for depth in (self.ct_depth, self.mr_depth):
            self.branch(depth)

    def branch(self, depth: int) -> VNetConfig:
        """The configuration of one modality-specific branch."""
        return VNetConfig(
            num_classes=self.num_classes,
            in_channels=1 + self.prompt_channels,
            depth=depth,
            base_channels=self.base_channels,
            normalization=self.normalization,
            dropout=self.dropout,
        )


class CrossModalBranch(nn.Module):
    """CFF, CFE and the decoder that gives y_mm."""

    def __init__(self, config: CmFNetConfig) -> None:
        super().__init__()
        norm = config.normalization
        channels = config.branch(4).channels
        stages = FUSED_STAGES if config.cff else FUSED_STAGES[-1:]
        self.has_skips = config.cff
        self.fusions = nn.ModuleDict({str(i): CrossModalFeatureFusion(channels[i], norm) for i in stages})
        self.enhancement = CrossModalFeatureEnhancement(channels[3], channels[4], norm)
        self.dropout = nn.Dropout3d(config.dropout)
        self.ups = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i in (3, 2, 1, 0):
            skip = channels[i] if config.cff and i in FUSED_STAGES else 0
            self.ups.append(UpUnit(channels[i + 1], channels[i], norm))
            self.stages.append(conv_stack(channels[i] + skip, channels[i], CONVOLUTIONS_PER_STAGE[i], norm))
        self.head = Conv3d(channels[0], config.num_classes, 1)

    def forward(self, ct: list[Tensor], mr: list[Tensor]) -> Tensor:
        """Logits (N, num_classes, k, j, i) from both encoders' feature maps f^0 .. f^depth."""
        fused = {int(i): fusion(ct[int(i)], mr[int(i)]) for i, fusion in self.fusions.items()}
        x = self.dropout(self.enhancement(fused[3]))
        for up, stage, i in zip(self.ups, self.stages, (3, 2, 1, 0)):
            x = up(x)
            joined = torch.cat([x, fused[i]], dim=1) if self.has_skips and i in fused else x
            x = add_residual(stage(joined), x)
        return self.head(x)


class CmFNet(nn.Module):
    """The cross-modal fusion network."""

    divisor = 16

    def __init__(self, config: CmFNetConfig) -> None:
        super().__init__()
        self.config = config
        ct, mr = config.branch(config.ct_depth), config.branch(config.mr_depth)
        self.ct_encoder, self.ct_decoder = VNetEncoder(ct), VNetDecoder(ct)
        self.mr_encoder, self.mr_decoder = VNetEncoder(mr), VNetDecoder(mr)
        self.cross_modal = CrossModalBranch(config) if config.cfe else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of all branches.

        Args:
            images: (N, modalities + prompt_channels, k, j, i), CT first; k, j, i multiples of `divisor`.

        Returns:
            "out" (y_mm), "ct" (y_ct) and "mr" (y_mr), each (N, num_classes, k, j, i). Without CFE y_ct is the result:
            "out" (y_ct) and "mr".

        Raises:
            ModelError: The images have not the channels or the size that the network needs.
        """
        ct, mr = self._encode(images)
        y_ct, y_mr = self.ct_decoder(ct), self.mr_decoder(mr)
        if self.cross_modal is None:
            return {"out": y_ct, "mr": y_mr}
        return {"out": self.cross_modal(ct, mr), "ct": y_ct, "mr": y_mr}

    def segment(self, images: Tensor) -> Tensor:
        """Only "out" of `forward`: the branch that inference uses."""
        if self.cross_modal is None:
            return self.segment_by("ct", images)
        return self.cross_modal(*self._encode(images))

    def segment_by(self, modality: Literal["ct", "mr"], images: Tensor) -> Tensor:
        """Only y_ct or y_mr of `forward`, the answer of one modality-specific branch."""
        ct, mr = self._split(images)
        return self.ct_decoder(self.ct_encoder(ct)) if modality == "ct" else self.mr_decoder(self.mr_encoder(mr))

    def _encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        ct, mr = self._split(images)
        return self.ct_encoder(ct), self.mr_encoder(mr)

    def _split(self, images: Tensor) -> tuple[Tensor, Tensor]:
        m = self.config.modalities
        require_images(images, m + self.config.prompt_channels, self.divisor, "CmFNet")
        prompts = images[:, m:]
        return torch.cat([images[:, :1], prompts], dim=1), torch.cat([images[:, m - 1 : m], prompts], dim=1)


class ModalityBranch(nn.Module):
    """A CmFNet that answers by one modality-specific branch, as Table V and Fig. 6 compare them."""

    divisor = CmFNet.divisor

    def __init__(self, network: CmFNet, modality: Literal["ct", "mr"]) -> None:
        super().__init__()
        self.network = network
        self.modality = modality

    def segment(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, k, j, i) of images as `CmFNet` takes them."""
        return self.network.segment_by(self.modality, images)
