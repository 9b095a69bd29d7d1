"""FocalNet (Yang et al., NeurIPS 2022), the image encoder of CrossMR.

Notable in this network:
- no attention: a pixel's context is gathered by a stack of growing depth-wise convolutions and one global mean, each
  weighted by a gate of the pixel, and multiplied with its query ("focal modulation");
- the variants that CrossMR takes over from SEEM embed with overlapping convolutions, normalise after each branch, scale
  each branch by a learned factor that starts small, and divide the gathered context by the number of its levels;
- four feature maps leave the network, each normalised, and each taken before the down-sampling to the next stage;
- images of any size: convolutions that need whole strides pad below and on the right;
- modules carry the names of Microsoft's code, so that public weights fit; the maps between them are channels-last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from CrossModalSegLib.errors import ModelError

STAGES = 4
# The kernel of a level is wider than that of the level before by this.
FOCAL_FACTOR = 2


@dataclass(frozen=True)
class FocalNetConfig:
    """A FocalNet.

    Attributes:
        embed_dim: Channels at stride 4; each of the three further stages doubles them.
        depths: Blocks of the stages.
        focal_levels: Depth-wise convolutions of a block, by stage.
        focal_window: Kernel of the first of them, odd.
        in_channels: Channels of an image.
        mlp_ratio: Hidden channels of a block's MLP, in channels of its stage.
        drop_path: Probability that the last block skips a branch in training; it rises from 0 at the first block.
        layer_scale: Start of the learned factor of each branch; None: no factor.
        use_post_norm: Normalise a branch behind instead of before it.
        normalize_modulator: Divide the gathered context by the number of its levels.
        use_conv_embed: Overlapping convolutions (7x7 stride 4, 3x3 stride 2) instead of patches (4x4, 2x2).
        use_depthwise: As the tiny network of SEEM, a 3x3 depth-wise convolution, a residual branch itself, comes before
            each branch; use_post_norm then normalises the sums, and the stem pads by 3 instead of 2.
    """

    embed_dim: int = 96
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    focal_levels: tuple[int, int, int, int] = (3, 3, 3, 3)
    focal_window: int = 3
    in_channels: int = 1
    mlp_ratio: float = 4.0
    drop_path: float = 0.3
    layer_scale: float | None = 1e-4
    use_post_norm: bool = True
    normalize_modulator: bool = True
    use_conv_embed: bool = True
    use_depthwise: bool = False

    def __post_init__(self) -> None:
        if min(self.embed_dim, self.in_channels, *self.depths, *self.focal_levels) < 1:
            raise ModelError(
                "A FocalNet needs embed_dim, in_channels, and all depths and focal_levels of at least 1; got "
                f"{self.embed_dim}, {self.in_channels}, {self.depths} and {self.focal_levels}."
            )
        if self.focal_window < 1 or self.focal_window % 2 == 0:
            raise ModelError(f"The focal_window of a FocalNet is an odd number; got {self.focal_window}.")
        if not 0.0 <= self.drop_path < 1.0:
            raise ModelError(f"The drop_path of a FocalNet lies within 0 and 1, 1 excluded; got {self.drop_path}.")
        if not self.mlp_ratio > 0.0:
            raise ModelError(f"The mlp_ratio of a FocalNet is above 0; got {self.mlp_ratio}.")

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four feature maps."""
        e = self.embed_dim
        return e, 2 * e, 4 * e, 8 * e


FOCALNET: dict[str, FocalNetConfig] = {
    "tiny": FocalNetConfig(),
    "large": FocalNetConfig(embed_dim=192, depths=(2, 2, 18, 2), focal_levels=(4, 4, 4, 4)),
    # Ours, for training from scratch on a CPU: normalised before each branch and without the small start of the layer
    # scale, both of which are for large networks and delay learning; little work at the finest stage.
    "compact": FocalNetConfig(
        embed_dim=48,
        depths=(1, 2, 4, 2),
        focal_levels=(2, 2, 3, 3),
        mlp_ratio=3.0,
        drop_path=0.1,
        layer_scale=None,
        use_post_norm=False,
    ),
}


class DropPath(nn.Module):
    """Skips a branch for some samples of a batch in training ("stochastic depth")."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) -> the same shape; kept samples are scaled up, so that the expectation stays."""
        if not self.training or self.probability == 0.0:
            return branch
        keep = 1.0 - self.probability
        is_kept = torch.rand(branch.shape[0], *(1,) * (branch.ndim - 1), device=branch.device) < keep
        return branch * (is_kept / keep).to(branch.dtype)


class PatchEmbed(nn.Module):
    """A strided convolution, then LayerNorm."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, overlapping: bool, stem_padding: int = 2
    ) -> None:
        super().__init__()
        self.stride = stride
        kernel, padding = stride, 0
        if overlapping:
            kernel, padding = (7, stem_padding) if stride == 4 else (3, 1)
        self.proj = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, ceil(h / stride), ceil(w / stride), C')."""
        h, w = x.shape[-2:]
        x = functional.pad(x, (0, -w % self.stride, 0, -h % self.stride))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class FocalModulation(nn.Module):
    """Focal modulation, Eqs. 3 to 6 of its paper: y = proj(q * h(sum over levels of gate_l * context_l))."""

    def __init__(self, channels: int, levels: int, window: int, normalize: bool) -> None:
        super().__init__()
        self.levels = levels
        self.normalize = normalize
        self.f = nn.Linear(channels, 2 * channels + levels + 1)
        self.h = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        self.focal_layers = nn.ModuleList()
        for level in range(levels):
            kernel = window + FOCAL_FACTOR * level
            conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
            self.focal_layers.append(nn.Sequential(conv, nn.GELU()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same shape."""
        c = x.shape[-1]
        query, context, gates = self.f(x).split([c, c, self.levels + 1], -1)
        gathered = None
        for level, layer in enumerate(self.focal_layers):
            context = layer(context.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            gate = gates[..., level : level + 1]
            gathered = context * gate if gathered is None else torch.addcmul(gathered, context, gate)
        whole = functional.gelu(context.mean((1, 2), keepdim=True))
        gathered = torch.addcmul(gathered, whole, gates[..., self.levels :])
        if self.normalize:
            gathered = gathered / (self.levels + 1)
        return self.proj(query * self.h(gathered))


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(functional.gelu(self.fc1(x)))


class FocalBlock(nn.Module):
    """Focal modulation, then an MLP, each as a residual branch."""

    def __init__(self, config: FocalNetConfig, stage: int, drop_path: float) -> None:
        super().__init__()
        c = config.channels[stage]
        self.use_post_norm = config.use_post_norm
        self.dw1 = self.dw2 = None
        if config.use_depthwise:
            self.dw1, self.dw2 = (nn.Conv2d(c, c, 3, padding=1, groups=c) for _ in range(2))
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.modulation = FocalModulation(
            c, config.focal_levels[stage], config.focal_window, config.normalize_modulator
        )
        self.mlp = Mlp(c, int(c * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.gamma_1 = self.gamma_2 = None
        if config.layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((c,), config.layer_scale))
            self.gamma_2 = nn.Parameter(torch.full((c,), config.layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same shape."""
        x = self._with_branch(x, self.dw1, self.modulation, self.norm1, self.gamma_1)
        return self._with_branch(x, self.dw2, self.mlp, self.norm2, self.gamma_2)

    def _with_branch(
        self, x: Tensor, depthwise: nn.Conv2d | None, body: nn.Module, norm: nn.Module, gamma: Tensor | None
    ) -> Tensor:
        if depthwise is not None:
            x = x + depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = body(x if self.use_post_norm else norm(x))
        normalises_sum = self.use_post_norm and depthwise is not None
        if self.use_post_norm and not normalises_sum:
            y = norm(y)
        x = x + self.drop_path(y if gamma is None else gamma * y)
        return norm(x) if normalises_sum else x


class Stage(nn.Module):
    """Blocks at one resolution, and the down-sampling behind them."""

    def __init__(self, config: FocalNetConfig, stage: int, drop_paths: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FocalBlock(config, stage, each) for each in drop_paths)
        self.downsample: PatchEmbed | None = None
        if stage + 1 < STAGES:
            here, below = config.channels[stage : stage + 2]
            self.downsample = PatchEmbed(here, below, 2, config.use_conv_embed)


class FocalNet(nn.Module):
    """The encoder: images to feature maps at strides 4, 8, 16 and 32."""

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(
            config.in_channels,
            config.embed_dim,
            4,
            config.use_conv_embed,
            stem_padding=3 if config.use_depthwise else 2,
        )
        blocks = sum(config.depths)
        rates = [config.drop_path * i / max(1, blocks - 1) for i in range(blocks)]
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            first = sum(config.depths[:stage])
            self.layers.append(Stage(config, stage, rates[first : first + depth]))
            self.add_module(f"norm{stage}", nn.LayerNorm(config.channels[stage]))
        self.apply(_initialize)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps, each (B, embed_dim * 2^i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

        Args:
            images: (B, in_channels, H, W).

        Raises:
            ModelError: The images have another number of axes or channels.
        """
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise ModelError(
                f"The encoder expected images of shape (B, {self.config.in_channels}, H, W); got "
                f"{tuple(images.shape)}. Give each slice with the neighbour slices that the model was made for."
            )
        features = []
        x = self.patch_embed(images)
        for stage, layer in enumerate(self.layers):
            for block in layer.blocks:
                x = block(x)
            features.append(self.get_submodule(f"norm{stage}")(x).permute(0, 3, 1, 2))
            if layer.downsample is not None:
                x = layer.downsample(x.permute(0, 3, 1, 2))
        return features


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
