"""Inter-modal consistency (Eq. 8)."""

from __future__ import annotations

from torch import Tensor

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.inside import inside_mean


def inter_modal_consistency(
    fused: Tensor,
    ct: Tensor | None,
    mr: Tensor | None,
    alpha1: float = 0.8,
    alpha2: float = 0.8,
    detach_fused: bool = False,
    inside: Tensor | None = None,
) -> Tensor:
    """alpha1 * MSE(y_mm, y_ct) + alpha2 * MSE(y_mm, y_mr), Eq. 8.

    Args:
        fused: y_mm, probabilities (N, C, k, j, i).
        ct, mr: y_ct and y_mr, shaped like `fused`; a branch that is None adds nothing.
        alpha1, alpha2: The weights of the CT and of the MR branch.
        detach_fused: Use y_mm as a fixed reference, so that only the single-modal branches are pulled. The paper calls
            it "a suitable reference value" and does not say whether it is detached.
        inside: (N, k, j, i) bool, False where a patch was padded: such voxels are left out. None: all are inside.

    Returns:
        Scalar; the squared norm is read as the mean over voxels and classes.

    Raises:
        InputError: No branch is given, or the shapes differ.
    """
    branches = [(alpha, branch) for alpha, branch in ((alpha1, ct), (alpha2, mr)) if branch is not None]
    if not branches:
        raise InputError("The inter-modal consistency needs the prediction of the CT or of the MR branch; got neither.")
    reference = fused.detach() if detach_fused else fused
    total = fused.new_zeros(())
    for alpha, branch in branches:
        if branch.shape != fused.shape:
            raise InputError(
                f"The branches of the inter-modal consistency must have one shape; got {tuple(fused.shape)} and "
                f"{tuple(branch.shape)}."
            )
        total = total + alpha * inside_mean((branch - reference).square(), inside)
    return total
