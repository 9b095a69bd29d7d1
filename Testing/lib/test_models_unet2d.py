from __future__ import annotations

import pytest
import torch

from CrossModalSegLib.config import to_dict
from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.factory import build_network
from CrossModalSegLib.models.unet2d import UNet2d, UNet2dConfig


def test_logits_have_the_size_of_the_image():
    network = build_network("unet2d", to_dict(UNet2dConfig(3, in_channels=2, channels=(4, 8, 8))))
    assert isinstance(network, UNet2d) and network.divisor == 4
    assert network(torch.rand(2, 2, 16, 24)).shape == (2, 3, 16, 24)


@pytest.mark.parametrize("changes", [{"num_classes": 1}, {"in_channels": 0}, {"channels": (8,)}, {"channels": (8, 0)}])
def test_sizes_that_cannot_be_used_are_refused(changes):
    with pytest.raises(ModelError, match="A 2D U-Net needs at least 2 classes"):
        UNet2dConfig(**{"num_classes": 2, **changes})
