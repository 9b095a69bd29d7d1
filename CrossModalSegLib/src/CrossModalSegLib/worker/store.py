"""What the worker keeps between jobs: models, fits, sessions of reference and targets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from torch import nn

    from CrossModalSegLib.inference.model_folder import LoadedModel

V = TypeVar("V")


class Recent(Generic[V]):
    """The last few values that were used."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        """The value of a key, which counts as used now; None where there is none."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value; the one that was not used for the longest time may go."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._size:
            self._values.popitem(last=False)

    def get_or_make(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made where there is none."""
        if key not in self._values:
            self.put(key, make())
        return self.get(key)

    def drop(self, key: Hashable) -> None:
        """Forget a value."""
        self._values.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()


@dataclass(frozen=True, eq=False)
class KeptFit:
    """The end of a fit, to go on from.

    Attributes:
        settings: what has to be equal to go on: method, start, modalities, names of the classes.
        network: with its weights, on the CPU.
    """

    settings: tuple[Hashable, ...]
    network: nn.Module


@dataclass(frozen=True)
class Store:
    """What jobs leave for later ones.

    Attributes:
        models: by folder, state of its files and device.
        fits: by the case's name.
        sessions: by the session's name.
    """

    models: Recent[LoadedModel] = field(default_factory=lambda: Recent(2))
    fits: Recent[KeptFit] = field(default_factory=lambda: Recent(16))
    sessions: Recent[Any] = field(default_factory=lambda: Recent(2))

    def make_room(self) -> None:
        """Forget what takes memory on devices; what cannot be computed again stays."""
        self.models.clear()
        self.sessions.clear()
