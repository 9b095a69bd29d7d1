"""Compared networks that MONAI has: UNETR, ResUNet, UNet++, DynUNet.

MONAI is imported when a network is built, since that takes seconds. Parameters that a configuration never uses are
removed, so that every parameter gets a gradient (distributed training waits for one that never comes).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from torch import Tensor, nn

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.convolution import use_safe_convolutions
from CrossModalSegLib.models.input_check import require_images, require_sizes


@dataclass(frozen=True)
class UNETRConfig:
    """UNETR, Hatamizadeh et al., WACV 2022.

    Its position embedding fixes the size of the input: train and infer (sliding window) on patches of `patch`.

    Attributes:
        num_classes: Output channels, background included.
        in_channels: Input channels: the modalities, stacked.
        patch: (k, j, i) voxels of every input, multiples of 16.
        feature_size: Channels at full resolution.
        hidden_size, mlp_size, heads: Of the transformer (ViT-B/16).
        dropout: In the transformer.
    """

    num_classes: int = 2
    in_channels: int = 2
    patch: tuple[int, int, int] = (16, 96, 96)
    feature_size: int = 16
    hidden_size: int = 768
    mlp_size: int = 3072
    heads: int = 12
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_sizes("UNETR", num_classes=self.num_classes, in_channels=self.in_channels, heads=self.heads)
        if any(size < 16 or size % 16 for size in self.patch):
            raise ModelError(f"The patch of UNETR must be of multiples of 16 voxels; got {self.patch}.")
        if self.hidden_size % self.heads:
            raise ModelError(f"UNETR's hidden_size {self.hidden_size} must be a multiple of its heads, {self.heads}.")


@dataclass(frozen=True)
class ResUNetConfig:
    """Residual U-Net, Zhang et al., IEEE GRSL 2018: MONAI's UNet with residual units.

    Attributes:
        num_classes: Output channels, background included.
        in_channels: Input channels: the modalities, stacked.
        channels: Of the stages, from full resolution down.
        residual_units: Convolutions a unit.
        dropout: After each convolution.
    """

    num_classes: int = 2
    in_channels: int = 2
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    residual_units: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_sizes(
            "ResUNet",
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            residual_units=self.residual_units,
            down_samplings=len(self.channels) - 1,
        )


@dataclass(frozen=True)
class UNetPlusPlusConfig:
    """UNet++, Zhou et al., IEEE TMI 2020.

    Attributes:
        num_classes: Output channels, background included.
        in_channels: Input channels: the modalities, stacked.
        channels: Of the five stages, from full resolution down, and of the last layer.
        deep_supervision: Further predictions "aux1".."aux3" at full resolution, in training.
        dropout: After each convolution.
    """

    num_classes: int = 2
    in_channels: int = 2
    channels: tuple[int, int, int, int, int, int] = (16, 32, 64, 128, 256, 16)
    deep_supervision: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_sizes("UNet++", num_classes=self.num_classes, in_channels=self.in_channels)


@dataclass(frozen=True)
class DynUNetConfig:
    """MONAI's form of nnU-Net's network, Isensee et al., Nature Methods 2021.

    Attributes:
        num_classes: Output channels, background included.
        in_channels: Input channels: the modalities, stacked.
        channels: Of the stages, from full resolution down.
        residual: Residual blocks.
        deep_supervision: How many further predictions "aux1".., brought to full resolution, there are in training.
    """

    num_classes: int = 2
    in_channels: int = 2
    channels: tuple[int, ...] = (32, 64, 128, 256, 320)
    residual: bool = False
    deep_supervision: int = 0

    def __post_init__(self) -> None:
        require_sizes(
            "DynUNet",
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            down_samplings=len(self.channels) - 2,
        )
        if not 0 <= self.deep_supervision <= len(self.channels) - 2:
            raise ModelError(
                f"DynUNet of {len(self.channels)} stages has 0..{len(self.channels) - 2} further predictions; "
                f"got {self.deep_supervision}."
            )


class MonaiNetwork(nn.Module):
    """A network of MONAI behind the calling convention of this library.

    Attributes:
        divisor: Each of k, j, i of an input must be a multiple of this.
        fixed_patch: (k, j, i) that every input must have, or None.
    """

    title: str
    divisor = 16
    fixed_patch: tuple[int, int, int] | None = None

    def __init__(
        self, config: UNETRConfig | ResUNetConfig | UNetPlusPlusConfig | DynUNetConfig, body: nn.Module
    ) -> None:
        super().__init__()
        self.config = config
        use_safe_convolutions(body)
        self.body = body

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits "out" (N, num_classes, k, j, i), and "aux1".. with deep supervision in training.

        Args:
            images: (N, in_channels, k, j, i).

        Raises:
            ModelError: The images have not the channels or the size that the network needs.
        """
        first, *others = self._predictions(images)
        return {"out": first, **{f"aux{n}": other for n, other in enumerate(others, start=1)}}

    def segment(self, images: Tensor) -> Tensor:
        """Only "out" of `forward`."""
        return self._predictions(images)[0]

    def _predictions(self, images: Tensor) -> list[Tensor]:
        require_images(images, self.config.in_channels, self.divisor, self.title)
        if self.fixed_patch is not None and tuple(images.shape[2:]) != self.fixed_patch:
            raise ModelError(
                f"{self.title} was made for inputs of {self.fixed_patch} voxels (k, j, i); got "
                f"{tuple(images.shape[2:])}. Use a sliding window of that size, or build it for another patch."
            )
        return self._split(self.body(images))

    def _split(self, prediction: Tensor | list[Tensor]) -> list[Tensor]:
        """The final prediction, then the further ones."""
        return [prediction] if isinstance(prediction, Tensor) else list(prediction)


def _require_einops() -> None:
    if importlib.util.find_spec("einops") is None:
        raise ModelError(
            "UNETR needs the package einops, which MONAI's transformer is written with, and it is not installed here. "
            "Install it with: pip install einops"
        )


class UNETR(MonaiNetwork):
    """MONAI's UNETR."""

    title = "UNETR"

    def __init__(self, config: UNETRConfig) -> None:
        _require_einops()
        from monai.networks import nets

        body = nets.UNETR(
            in_channels=config.in_channels,
            out_channels=config.num_classes,
            img_size=config.patch,
            feature_size=config.feature_size,
            hidden_size=config.hidden_size,
            mlp_dim=config.mlp_size,
            num_heads=config.heads,
            norm_name="instance",
            dropout_rate=config.dropout,
        )
        super().__init__(config, body)
        self.fixed_patch = tuple(config.patch)
        for block in body.vit.blocks:
            # Made for cross-attention, which a UNETR has none of.
            for name in ("norm_cross_attn", "cross_attn"):
                if hasattr(block, name):
                    setattr(block, name, nn.Identity())


class ResUNet(MonaiNetwork):
    """MONAI's UNet with residual units."""

    title = "ResUNet"

    def __init__(self, config: ResUNetConfig) -> None:
        from monai.networks.nets import UNet as Body

        body = Body(
            spatial_dims=3,
            in_channels=config.in_channels,
            out_channels=config.num_classes,
            channels=config.channels,
            strides=(2,) * (len(config.channels) - 1),
            num_res_units=config.residual_units,
            norm=("instance", {"affine": True}),
            dropout=config.dropout,
        )
        super().__init__(config, body)
        self.divisor = 2 ** (len(config.channels) - 1)


class UNetPlusPlus(MonaiNetwork):
    """MONAI's BasicUNetPlusPlus."""

    title = "UNet++"

    def __init__(self, config: UNetPlusPlusConfig) -> None:
        from monai.networks.nets import BasicUNetPlusPlus as Body

        body = Body(
            spatial_dims=3,
            in_channels=config.in_channels,
            out_channels=config.num_classes,
            features=config.channels,
            deep_supervision=config.deep_supervision,
            dropout=config.dropout,
        )
        super().__init__(config, body)
        if not config.deep_supervision:
            for n in (1, 2, 3):
                setattr(body, f"final_conv_0_{n}", nn.Identity())

    def _split(self, prediction: Tensor | list[Tensor]) -> list[Tensor]:
        # Ordered from the shallowest to the deepest path, which is the prediction.
        return list(prediction)[::-1] if self.training else [prediction[-1]]


class DynUNet(MonaiNetwork):
    """MONAI's DynUNet."""

    title = "DynUNet"

    def __init__(self, config: DynUNetConfig) -> None:
        from monai.networks.nets import DynUNet as Body

        stages = len(config.channels)
        body = Body(
            spatial_dims=3,
            in_channels=config.in_channels,
            out_channels=config.num_classes,
            kernel_size=(3,) * stages,
            strides=(1,) + (2,) * (stages - 1),
            upsample_kernel_size=(2,) * (stages - 1),
            filters=config.channels,
            deep_supervision=config.deep_supervision > 0,
            deep_supr_num=max(1, config.deep_supervision),
            res_block=config.residual,
        )
        super().__init__(config, body)
        self.divisor = 2 ** (stages - 1)

    def _split(self, prediction: Tensor | list[Tensor]) -> list[Tensor]:
        if self.config.deep_supervision and self.training:
            return list(prediction.unbind(1))
        return [prediction]
