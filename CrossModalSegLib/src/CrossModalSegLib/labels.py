"""Label tables and scribble conventions.

Inside the library a scribble array is uint8: 0 is a background scribble, 1..K are classes, 255 is unlabelled. Files
come in several conventions, which are declared, never guessed, and converted at the border.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import terminology as known
from .errors import LabelError

UNLABELLED = 255
BACKGROUND = 0
BACKGROUND_NAME = "background"
MAX_CLASSES = 254  # uint8 without 0 and 255

_GOLDEN = 0.618033988749895  # its multiples spread over the colour circle


@dataclass(frozen=True)
class Label:
    """One class.

    Attributes:
        value: in label maps, 1..254.
        name: as people read it.
        color: RGB, 0..255.
        terminology: 3D Slicer's serialised entry of seven "~"-separated parts, or None.

    Raises:
        LabelError: a part is not usable.
    """

    value: int
    name: str
    color: tuple[int, int, int]
    terminology: str | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.value) or not 1 <= self.value <= MAX_CLASSES:
            raise LabelError(f"A label value should be a whole number from 1 to {MAX_CLASSES}, got {self.value!r}.")
        if not isinstance(self.name, str) or not self.name.strip() or not _is_one_line(self.name):
            raise LabelError(f"A label name should be one line of text, got {self.name!r}.")
        object.__setattr__(self, "name", self.name.strip())
        object.__setattr__(self, "color", _checked_color(self.color, self.name))
        if self.terminology is not None and not is_terminology_entry(self.terminology):
            raise LabelError(
                f"The terminology of '{self.name}' should have seven parts joined by '~' as 3D Slicer writes them, "
                f"got {self.terminology!r}."
            )


@dataclass(frozen=True)
class LabelTable:
    """The classes 1..K of a label map; 0 is background and not listed.

    Raises:
        LabelError: there is no class, the values are not 1..K in order, or two names are equal.
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if not self.labels:
            raise LabelError("A label table needs at least one class; name what is to be segmented.")
        values = [label.value for label in self.labels]
        if values != list(range(1, len(values) + 1)):
            raise LabelError(f"The label values should be 1 to {len(values)} in this order, got {values}.")
        names = [label.name.casefold() for label in self.labels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise LabelError(f"Every class needs its own name; these appear twice: {', '.join(twice)}.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """K + 1: the classes and background."""
        return len(self.labels) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """The K names, without background."""
        return tuple(label.name for label in self.labels)

    @classmethod
    def from_names(cls, names: Sequence[str]) -> LabelTable:
        """Number names from 1; well-known organs and tumours get their SNOMED CT codes and colours.

        Args:
            names: in the order of their values. Unknown names get distinct colours and the code of tissue.

        Raises:
            LabelError: a name is not usable or appears twice, or there is none.
        """
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise LabelError(f"A list of names was expected, got {names!r}.")
        labels: list[Label] = []
        used: set[tuple[int, int, int]] = {(0, 0, 0)}
        for value, name in enumerate(names, start=1):
            structure = known.find_structure(name)
            color = _free_color(structure.color if structure else _wheel_color(value), used)
            used.add(color)
            labels.append(Label(value, name, color, structure.terminology if structure else known.GENERIC_TISSUE))
        return cls(tuple(labels))

    def label_by_name(self, name: str) -> Label:
        """Find a class; capitals do not matter.

        Raises:
            LabelError: there is none of that name.
        """
        for label in self.labels:
            if label.name.casefold() == name.strip().casefold():
                return label
        raise LabelError(f"There is no class '{name}'; the classes are {', '.join(self.names)}.")

    def to_json(self) -> list[dict[str, object]]:
        """The table as a list for JSON."""
        return [
            {"value": each.value, "name": each.name, "color": list(each.color), "terminology": each.terminology}
            for each in self.labels
        ]

    @classmethod
    def from_json(cls, data: object) -> LabelTable:
        """Read what `to_json` gave; colour and terminology may be missing.

        Args:
            data: a list of objects with "value" and "name", and maybe "color" and "terminology".

        Raises:
            LabelError: it has another form.
        """
        if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
            raise LabelError("The labels should be a list of objects with 'value' and 'name'.")
        defaults = cls.from_names([_text(each, "name") for each in data])
        return cls(tuple(_label_from_json(each, default) for each, default in zip(data, defaults.labels, strict=True)))


@dataclass(frozen=True)
class ScribbleConvention:
    """What the values of a scribble file mean; classes are 1..K in every convention.

    Attributes:
        unlabelled: value of voxels that nobody painted.
        background: value of background scribbles; None when the file has no background scribbles.

    Raises:
        LabelError: the two are equal, negative, or not whole numbers.
    """

    unlabelled: int
    background: int | None

    INTERNAL: ClassVar[ScribbleConvention]
    ACDC: ClassVar[ScribbleConvention]
    MSCMR: ClassVar[ScribbleConvention]

    def __post_init__(self) -> None:
        for name, value in (("unlabelled", self.unlabelled), ("background", self.background)):
            if name == "background" and value is None:
                continue
            if not _is_int(value) or not 0 <= value <= 65535:
                raise LabelError(f"The {name} value of scribbles should be from 0 to 65535, got {value!r}.")
        if self.unlabelled == self.background:
            raise LabelError(f"Unlabelled voxels and background scribbles cannot share the value {self.unlabelled}.")

    @classmethod
    def nnunet(cls, ignore: int) -> ScribbleConvention:
        """nnU-Net's: `ignore` is unlabelled, 0 is background."""
        return cls(ignore, 0)

    def to_internal(self, array: np.ndarray, num_classes: int) -> np.ndarray:
        """Convert from this convention to the internal one.

        Args:
            array: values of a file, any shape; floats must be whole numbers.
            num_classes: K + 1.

        Returns:
            uint8 of the same shape: 0 background, 1..K classes, 255 unlabelled.

        Raises:
            LabelError: this convention clashes with K classes, or the array has other values; they are named.
        """
        classes = num_classes - 1
        if not 1 <= classes <= MAX_CLASSES:
            raise LabelError(f"From 1 to {MAX_CLASSES} classes are possible, got {classes}.")
        self._check_clash(classes)
        array = whole_numbers(array, "The scribbles")
        result = np.full(array.shape, UNLABELLED, dtype=np.uint8)
        is_class = (array >= 1) & (array <= classes)
        result[is_class] = array[is_class]
        known_values = is_class | (array == self.unlabelled)
        if self.background is not None:
            result[array == self.background] = BACKGROUND
            known_values |= array == self.background
        if not known_values.all():
            raise LabelError(
                f"The scribbles hold {_listed(array[~known_values])}, unknown to the declared convention: "
                f"{self._in_words(classes)}. Declare the convention of the file."
            )
        return result

    def _check_clash(self, classes: int) -> None:
        for name, value in (("unlabelled", self.unlabelled), ("background", self.background)):
            if value is not None and 1 <= value <= classes:
                raise LabelError(
                    f"The value {value} cannot mean '{name}': with {classes} classes it is the value of a class."
                )

    def _in_words(self, classes: int) -> str:
        background = "no background scribbles" if self.background is None else f"{self.background} background"
        return f"1 to {classes} are classes, {self.unlabelled} is unlabelled, {background}"


def check_scribbles(scribbles: np.ndarray, table: LabelTable, needs_background: bool = True) -> None:
    """Check that there is something to learn from for every class.

    Args:
        scribbles: uint8 internal scribbles, any shape.
        table: the classes.
        needs_background: whether the background must be scribbled, too.

    Raises:
        LabelError: nothing is scribbled, a value is unknown, a class has no scribble, or the background that needs one.
    """
    counts = np.bincount(whole_numbers(scribbles, "The scribbles").astype(np.int64).ravel(), minlength=256)
    unknown = [value for value in np.flatnonzero(counts) if value >= table.num_classes and value != UNLABELLED]
    if unknown:
        raise LabelError(
            f"The scribbles hold {_listed(np.array(unknown))}; the classes are 1 to {len(table)}, 0 is background and "
            f"{UNLABELLED} unlabelled."
        )
    if not counts[:UNLABELLED].any():
        also = " and some in the background" if needs_background else ""
        raise LabelError(f"The scribbles are empty; draw a stroke in each class{also}.")
    missing = [label.name for label in table.labels if not counts[label.value]]
    if missing:
        raise LabelError(f"There is no scribble of {', '.join(missing)}; draw at least one stroke of each class.")
    if needs_background and not counts[BACKGROUND]:
        raise LabelError("There is no background scribble; draw a stroke where none of the classes is.")


def check_mask(mask: np.ndarray, table: LabelTable) -> np.ndarray:
    """Check a dense label map against a table.

    Args:
        mask: any shape; floats must be whole numbers.
        table: the classes.

    Returns:
        The mask as uint8, the very array where it is of this type.

    Raises:
        LabelError: it holds values other than 0..K; they are named.
    """
    mask = whole_numbers(mask, "The mask")
    if mask.size and ((mask.dtype.kind != "u" and mask.min() < 0) or mask.max() > len(table)):
        unknown = mask[(mask < 0) | (mask > len(table))]
        classes = ", ".join(f"{label.value} {label.name}" for label in table.labels)
        raise LabelError(f"The mask holds {_listed(unknown)}; it should hold 0 for background and {classes}.")
    return mask.astype(np.uint8, copy=False)


def check_no_background(table: LabelTable) -> None:
    """Check that no class is called "background", which is the value 0: listed, it would move all names by one.

    Raises:
        LabelError: one is.
    """
    if BACKGROUND_NAME in (name.casefold() for name in table.names):
        raise LabelError(
            f"The classes are numbered from 1, and 'background' is always 0: leave it out of {', '.join(table.names)}, "
            "or each class gets the name of the one before."
        )


def whole_numbers(array: np.ndarray, what: str) -> np.ndarray:
    """Check that an array holds whole numbers; floats such as 3.0 are converted.

    Args:
        array: any shape.
        what: how a sentence about it begins.

    Returns:
        The array, with an integer type.

    Raises:
        LabelError: it holds fractions, NaN or infinities.
    """
    array = np.asarray(array)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind != "f":
        raise LabelError(f"{what} should hold whole numbers, got the type {array.dtype}.")
    if not np.isfinite(array).all() or (array != np.floor(array)).any() or (np.abs(array) > 2**31).any():
        raise LabelError(f"{what} should hold whole numbers, got fractions, NaN or infinities; is it an image?")
    return array.astype(np.int32)


def is_terminology_entry(text: object) -> bool:
    """Whether a text has the form of 3D Slicer's serialised terminology: seven parts, codes of three parts."""
    if not isinstance(text, str) or "|" in text or not _is_one_line(text):
        return False
    parts = text.split("~")
    return len(parts) == 7 and all(part.count("^") == 2 for index, part in enumerate(parts) if index not in (0, 4))


def _label_from_json(data: dict[str, object], default: Label) -> Label:
    unknown = sorted(set(map(str, data)) - {"value", "name", "color", "terminology"})
    if unknown:
        raise LabelError(f"The label '{default.name}' has unknown keys: {', '.join(unknown)}.")
    if "value" not in data:
        raise LabelError(f"The label '{default.name}' has no 'value'.")
    color = data.get("color")
    term = data.get("terminology", default.terminology)
    return Label(data["value"], default.name, default.color if color is None else color, term)


def _text(data: dict[str, object], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise LabelError(f"Every label needs a '{key}', got {value!r}.")
    return value


def _checked_color(color: object, name: str) -> tuple[int, int, int]:
    parts = tuple(color) if isinstance(color, (tuple, list)) else ()
    if len(parts) != 3 or not all(_is_int(part) and 0 <= part <= 255 for part in parts):
        raise LabelError(f"The color of '{name}' should be three whole numbers from 0 to 255, got {color!r}.")
    return tuple(int(part) for part in parts)


def _wheel_color(index: int) -> tuple[int, int, int]:
    rgb = colorsys.hsv_to_rgb((index * _GOLDEN) % 1.0, 0.65 + 0.3 * (index % 2), 0.95)
    return tuple(round(255 * part) for part in rgb)


def _free_color(color: tuple[int, int, int], used: set[tuple[int, int, int]]) -> tuple[int, int, int]:
    """The colour, or a near one that is not used yet: left and right organs share a colour in the standard list."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in color))
    candidate, step = color, 0
    while candidate in used:
        step += 1
        rgb = colorsys.hsv_to_rgb((hue + 0.04 * step) % 1.0, max(saturation, 0.3), 0.55 + (value + 0.13 * step) % 0.45)
        candidate = tuple(round(255 * part) for part in rgb)
    return candidate


def _listed(values: np.ndarray, most: int = 8) -> str:
    distinct = np.unique(values).tolist()
    text = ", ".join(str(value) for value in distinct[:most])
    return f"the value{'s' if len(distinct) > 1 else ''} {text}{' and others' if len(distinct) > most else ''}"


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_one_line(text: str) -> bool:
    return text.isprintable()


ScribbleConvention.INTERNAL = ScribbleConvention(UNLABELLED, BACKGROUND)
ScribbleConvention.ACDC = ScribbleConvention(4, BACKGROUND)
ScribbleConvention.MSCMR = ScribbleConvention(4, BACKGROUND)
