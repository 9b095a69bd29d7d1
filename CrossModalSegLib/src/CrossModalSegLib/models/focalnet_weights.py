"""Public weights for a FocalNet, from a file that the user has.

Files of Microsoft's code (classification, detection, segmentation, and whole models of SEEM), of transformers and of
timm are understood. What a file may do otherwise than the network:
- fewer or more focal levels: the common ones are taken, with their gates and the gate of the global mean;
- other kernels, of the focal levels or of the embedding: they are cut, or widened by zeros, in place, so that a narrow
  kernel in a wide network does what it did;
- colour images: the stem's kernels are averaged over the colours, scaled so that a grey image gives what it gave;
- no factors of the branches: they are 1.
What a file does not say has to be configured: whether the gathered context is divided by the number of its levels.
Whether normalisation comes before or behind a branch is not said either, but follows: all published FocalNets with
factors of the branches normalise behind, all without before. A file whose blocks have parts that the network lacks,
such as the depth-wise convolutions of SEEM's tiny one, is refused: without them the others mean something else.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.focalnet import STAGES, FocalNet, FocalNetConfig

# Applied in this order to the names in a file; what results are the names of Microsoft's code, which the network has.
_RENAMED = (
    (r"^(model|module|state_dict)\.", ""),
    (r"^(backbone|focalnet)\.", ""),
    # transformers
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.stages\.(\d+)\.layers\.", r"layers.\1.blocks."),
    (r"^encoder\.stages\.", "layers."),
    (r"\.downsample\.projection\.", ".downsample.proj."),
    (r"\.modulation\.projection_in\.", ".modulation.f."),
    (r"\.modulation\.projection_context\.", ".modulation.h."),
    (r"\.modulation\.projection_out\.", ".modulation.proj."),
    (r"^layernorm\.", "norm."),
    # timm
    (r"^stem\.", "patch_embed."),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.norm([12])_post\.", r".norm\1."),
    # The last normalisation of a classifier is that of the coarsest feature map.
    (r"^norm\.", "norm3."),
)
# Rows and columns by which kernels of an embedding begin before the patch they stand for.
_EMBEDDING_PADDING = {7: 2, 4: 0, 3: 1, 2: 0}
_STEM_PADDING_WITH_DEPTHWISE = 3
# What a file may lack, because it has fewer levels or is no backbone.
_OPTIONAL = re.compile(r"norm[0-3]\..*|.*\.focal_layers\..*")
# Parts of a block; focal levels may be more than the network has.
_PART_OF_BLOCK = re.compile(r"layers\.\d+\.blocks\.\d+\.(?!modulation\.focal_layers\.)")
_CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "s = torch.load(sys.argv[1], weights_only=True); s = s.get('model', s.get('state_dict', s)); "
    'save_file({k: v.clone().contiguous() for k, v in s.items() if torch.is_tensor(v)}, sys.argv[2])" '
    "weights.pth weights.safetensors"
)
_NAMED = 6


@dataclass(frozen=True)
class WeightsReport:
    """What became of a file of weights; names are those of the network, except in `unused`.

    Attributes:
        loaded: Taken as they were.
        adapted: Taken after a change of levels, kernels or image channels, or set to 1.
        missing: The network keeps its own, because the file has none.
        unused: Names in the file that the network has no use for.
    """

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors taken"]
        for what, names in (("adapted", self.adapted), ("not found", self.missing), ("not used", self.unused)):
            if names:
                more = ", ..." if len(names) > _NAMED else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:_NAMED])}{more})")
        return "; ".join(parts)


def load_public_weights(network: FocalNet, path: str | Path) -> WeightsReport:
    """Replace the weights of a network by those of a file, as far as they fit.

    Args:
        network: Changed in place.
        path: A .safetensors file.

    Raises:
        ModelError: The file is missing, damaged, or of another kind; it holds NaN or infinite values, no FocalNet, one
            of another width or depth, one that normalises elsewhere, one with other parts, or only a part of one.
    """
    path = Path(path)
    stored = _read(path)
    names = _network_names(stored)
    _check_size(network.config, stored, names, path)
    _check_norms(network.config, names, path)
    _check_depthwise(network.config, names, path)
    own = network.state_dict()
    taken: dict[str, Tensor] = {}
    adapted, unused = set(), []
    for name, tensor in stored.items():
        target = names[name]
        fitting = None if target not in own or target in taken else _fit(target, tensor, own[target], network.config)
        if fitting is None:
            unused.append(name)
            continue
        taken[target] = fitting
        if fitting.numel() != tensor.numel():
            adapted.add(target)
    for name in own:
        if re.search(r"\.gamma_[12]$", name) and name not in taken:
            taken[name] = torch.ones_like(own[name])
            adapted.add(name)
    missing = tuple(name for name in own if name not in taken)
    needed = [name for name in missing if not _OPTIONAL.fullmatch(name)]
    if needed:
        raise ModelError(
            f"'{path}' holds only a part of the weights of a FocalNet: {needed[0]} and {len(needed) - 1} others are "
            "missing or of another shape. Take a file with the whole encoder."
        )
    foreign = [name for name in unused if _PART_OF_BLOCK.match(names[name])]
    if foreign:
        raise ModelError(
            f"'{path}' holds a FocalNet whose blocks have parts that this encoder lacks: {foreign[0]} and "
            f"{len(foreign) - 1} others. Choose the encoder that the file was made for."
        )
    network.load_state_dict({**own, **taken})
    loaded = tuple(name for name in own if name in taken and name not in adapted)
    return WeightsReport(loaded, tuple(name for name in own if name in adapted), missing, tuple(unused))


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"The file of weights '{path}' does not exist.")
    if path.suffix != ".safetensors":
        raise ModelError(
            f"Weights are read from .safetensors files only, because others can run any program; got '{path}'. Convert "
            f"a file that you trust with: {_CONVERT}"
        )
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"'{path}' is damaged or not a safetensors file ({error}): download it again.") from error
    for name, tensor in stored.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"The weights '{path}' hold NaN or infinite values in {name}: they are not usable.")
    return stored


def _network_names(stored: dict[str, Tensor]) -> dict[str, str]:
    """Names in the file to names in the network."""
    names = {}
    for name in stored:
        new = name
        for pattern, replacement in _RENAMED:
            new = re.sub(pattern, replacement, new)
        names[name] = new
    if any(re.search(r"(^|\.)stem\.proj\.", name) for name in stored):
        # timm counts a down-sampling to the stage behind it.
        names = {name: re.sub(r"^layers\.(\d+)(?=\.downsample\.)", _stage_before, new) for name, new in names.items()}
    return names


def _stage_before(found: re.Match[str]) -> str:
    return f"layers.{int(found[1]) - 1}"


def _check_size(config: FocalNetConfig, stored: dict[str, Tensor], names: dict[str, str], path: Path) -> None:
    by_target = {new: stored[name] for name, new in names.items()}
    stem = by_target.get("patch_embed.proj.weight")
    blocks = {found.groups() for new in by_target if (found := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", new))}
    if stem is None or stem.ndim != 4 or not blocks:
        raise ModelError(f"'{path}' holds no FocalNet that this library knows: it has no stem or no blocks.")
    depths = tuple(sum(int(stage) == i for stage, _ in blocks) for i in range(STAGES))
    if (len(stem), depths) != (config.embed_dim, config.depths):
        wanted = _settings(embed_dim=len(stem), depths=depths, focal_levels=_focal_levels(names))
        raise ModelError(
            f"'{path}' holds a FocalNet with embed_dim {len(stem)} and depths {depths}; the network has "
            f"{config.embed_dim} and {config.depths}. Choose the encoder that the file was made for, in a settings "
            f"file: {wanted}."
        )


def _focal_levels(names: dict[str, str]) -> tuple[int, ...]:
    """How many focal levels the stages of a file have."""
    found = [re.match(r"layers\.(\d+)\.blocks\.0\.modulation\.focal_layers\.(\d+)\.", new) for new in names.values()]
    levels = {(int(each[1]), int(each[2])) for each in found if each}
    return tuple(sum(stage == i for stage, _ in levels) for i in range(STAGES))


def _settings(**encoder: object) -> str:
    """What a settings file says of an encoder."""
    return json.dumps({"network": {"encoder": encoder}})


def _check_norms(config: FocalNetConfig, names: dict[str, str], path: Path) -> None:
    """Weights whose normalisation moves to the other side of its branch are worth no more than random ones."""
    has_factors = any(re.search(r"\.gamma_[12]$", new) for new in names.values())
    if has_factors == config.use_post_norm:
        return
    if has_factors:
        raise ModelError(
            f"'{path}' holds a FocalNet that normalises behind its branches, as those with factors of the branches do; "
            "this encoder normalises before them. Set its use_post_norm to true and give it a layer_scale."
        )
    raise ModelError(
        f"'{path}' holds a FocalNet that normalises before its branches, as those without factors of the branches do "
        "(tiny, small and base of Microsoft); this encoder normalises behind them. Take the weights of SEEM, or set "
        "the encoder as that of the file was, in a settings file: "
        f"{_settings(use_post_norm=False, layer_scale=None, normalize_modulator=False, use_conv_embed=False)}."
    )


def _check_depthwise(config: FocalNetConfig, names: dict[str, str], path: Path) -> None:
    has_convolutions = any(re.search(r"\.dw1\.", new) for new in names.values())
    if has_convolutions == config.use_depthwise:
        return
    if has_convolutions:
        raise ModelError(
            f"'{path}' holds a FocalNet with depth-wise convolutions before its branches, as the tiny one of SEEM has; "
            f"this encoder has none. Set it so in a settings file: {_settings(use_depthwise=True)}."
        )
    raise ModelError(
        f"'{path}' holds a FocalNet without depth-wise convolutions before its branches; this encoder has them, as the "
        "tiny one of SEEM. Set its use_depthwise to false."
    )


def _fit(name: str, tensor: Tensor, own: Tensor, config: FocalNetConfig) -> Tensor | None:
    """The tensor in the shape and type of the network's own, or None."""
    tensor = tensor.to(own)
    if tensor.ndim == 4 and own.ndim == 2 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    if ".modulation.f." in name and tensor.shape[1:] == own.shape[1:]:
        return _fit_gates(tensor, own, config.channels[int(name.split(".")[1])])
    if tensor.ndim == 4 and own.ndim == 4 and tensor.shape[0] == own.shape[0]:
        if name == "patch_embed.proj.weight":
            grey = tensor.mean(1, keepdim=True) * (tensor.shape[1] / own.shape[1])
            tensor = tensor if tensor.shape[1] == own.shape[1] else grey.expand(-1, own.shape[1], -1, -1)
        padding = (
            {**_EMBEDDING_PADDING, 7: _STEM_PADDING_WITH_DEPTHWISE} if config.use_depthwise else _EMBEDDING_PADDING
        )
        tensor = _fit_kernel(tensor, own.shape[-1], None if ".focal_layers." in name else padding)
    return tensor if tensor is not None and tensor.shape == own.shape else None


def _fit_gates(tensor: Tensor, own: Tensor, channels: int) -> Tensor:
    # Rows: query and context, the gate of each level, the gate of the global mean.
    first = 2 * channels
    common = min(len(tensor), len(own)) - first - 1
    fitted = own.clone()
    fitted[: first + common] = tensor[: first + common]
    fitted[-1] = tensor[-1]
    return fitted


def _fit_kernel(kernel: Tensor, size: int, padding: dict[int, int] | None) -> Tensor | None:
    """(C', C, k, k) -> (C', C, size, size), so that the common rows and columns meet the same pixels.

    Args:
        kernel: Of the file.
        size: Of the network's kernel.
        padding: Of the kernels of an embedding, by size; None for a focal level, whose kernels lie around their pixel.
    """
    sizes = kernel.shape[-1], size
    if padding is None:
        has, needs = (n // 2 for n in sizes)
    elif set(sizes) <= set(padding):
        has, needs = (padding[n] for n in sizes)
    else:
        return None
    before, after = needs - has, size - sizes[0] - (needs - has)
    return functional.pad(kernel, (before, after, before, after))
