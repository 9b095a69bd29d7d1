"""Lightning Fabric for the devices there are."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Literal

import torch

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.inference.predictor import Precision, native_bf16
from CrossModalSegLib.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)

Accelerator = Literal["auto", "cpu", "cuda", "mps"]


def build_fabric(
    *,
    accelerator: Accelerator = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    precision: Precision = "fp32",
    find_unused_parameters: bool = False,
) -> Fabric:
    """A launched Fabric.

    Under torchrun the number of processes and nodes is torchrun's; several processes use DDP.

    Args:
        accelerator: "auto" takes CUDA, then MPS, then the CPU.
        devices: Devices, or processes on the CPU, on each node.
        num_nodes: Machines.
        strategy: One of Fabric's; "auto" takes DDP for more than one process.
        precision: "bf16" computes under autocast with fp32 weights.
        find_unused_parameters: Whether steps leave parameters without gradients (DDP has to look for them).

    Raises:
        InputError: A device is not there, or a number is not usable.
    """
    if "LOCAL_WORLD_SIZE" in os.environ and "WORLD_SIZE" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    chosen = choose_accelerator(accelerator)
    check_devices(chosen, devices, num_nodes)
    from lightning.fabric import Fabric  # here: it takes seconds
    from lightning.fabric.strategies import DDPStrategy

    # It tells in each run what was just asked of it, on a GPU with advice that does not concern autocast.
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    plan: object = strategy
    if devices * num_nodes > 1 and strategy in ("auto", "ddp"):
        plan = DDPStrategy(find_unused_parameters=find_unused_parameters)
    fabric = Fabric(
        accelerator=chosen,
        devices=devices,
        num_nodes=num_nodes,
        strategy=plan,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def progress_of_first(fabric: Fabric, progress: Progress | None) -> Progress:
    """The progress in the first process; all others are silent."""
    return progress if progress is not None and fabric.global_rank == 0 else SilentProgress()


def choose_accelerator(accelerator: Accelerator) -> str:
    """The accelerator that "auto" stands for, or the one asked for if it is there.

    Raises:
        InputError: It is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if accelerator == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if accelerator not in there:
        raise InputError(f'The accelerator is "auto", "cpu", "cuda" or "mps"; got "{accelerator}".')
    if not there[accelerator]:
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise InputError(
            f'The accelerator "{accelerator}" was asked for, but this machine and this PyTorch '
            f"({torch.__version__}) offer: {found}. Choose one of them, or install a PyTorch built for the device."
        )
    return accelerator


def check_devices(accelerator: str, devices: int, num_nodes: int) -> None:
    """Refuse more devices than there are.

    Raises:
        InputError: There are fewer, or a number is below 1.
    """
    if devices < 1 or num_nodes < 1:
        raise InputError(f"Devices and nodes are counted from 1; got {devices} devices on {num_nodes} nodes.")
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(accelerator, devices)
    if devices > there:
        raise InputError(f'{devices} devices of "{accelerator}" were asked for, but there are {there}; ask for fewer.')


def choose_precision(precision: Precision, accelerator: str) -> Precision:
    """bf16 only where the device computes with it natively."""
    is_native = precision == "bf16" and native_bf16(torch.device(accelerator))
    if precision == "bf16" and not is_native:
        logger.info("The device %s has no native bfloat16: float32 is used.", accelerator)
    return "bf16" if is_native else "fp32"
