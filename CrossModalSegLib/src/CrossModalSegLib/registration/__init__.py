"""Registration of two volumes of one patient."""

from .alignment import Alignment, alignment
from .files import check_transform_suffix, write_transform
from .kinds import Kind, Start
from .register import Registration, register

__all__ = [
    "Alignment",
    "Kind",
    "Registration",
    "Start",
    "alignment",
    "check_transform_suffix",
    "register",
    "write_transform",
]
