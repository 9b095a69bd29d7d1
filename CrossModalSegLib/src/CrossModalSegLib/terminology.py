"""Standard codes (SNOMED CT, DICOM) and colours of common structures, in the form that 3D Slicer writes.

A serialised entry has seven parts joined by "~": the name of the terminology, category, type, type modifier, the name
of the anatomic list, anatomic region, region modifier. A code is "scheme^value^meaning"; a missing one is "^^".
Codes and colours are those of Slicer's "General Anatomy list" and of the "DICOM master list".
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_GENERAL = "Segmentation category and type - 3D Slicer General Anatomy list"
_DICOM = "Segmentation category and type - DICOM master list"
_ANATOMIC = "Anatomic codes - DICOM master list"
_NONE = "^^"

_ANATOMICAL = "SCT^123037004^Anatomical Structure"
_ALTERED = "SCT^49755003^Morphologically Altered Structure"
_TISSUE = "SCT^85756007^Tissue"
_SPATIAL = "SCT^309825002^Spatial and Relational Concept"
_LEFT = "SCT^7771000^Left"
_RIGHT = "SCT^24028007^Right"

Color = tuple[int, int, int]
Code = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Structure:
    """A structure that has a code.

    Attributes:
        terminology: Slicer's serialised entry.
        color: RGB, 0..255.
    """

    terminology: str
    color: Color


def _entry(context: str, category: str, kind: str, modifier: str = _NONE) -> str:
    return "~".join((context, category, kind, modifier, _ANATOMIC, _NONE, _NONE))


GENERIC_TISSUE = _entry(_GENERAL, _TISSUE, _TISSUE)
BACKGROUND = _entry(_DICOM, _SPATIAL, "DCM^125040^Background")


def find_structure(name: str) -> Structure | None:
    """Look a structure up by its everyday name.

    Case, "_", "-", word order, common short forms and British or American spelling do not matter: "Kidney_left", "RK"
    and "RightKidney" are found as "left kidney" and "right kidney" are.

    Args:
        name: such as "liver", "oesophagus", "GTV" or "left adrenal gland".

    Returns:
        The structure, or None when the name is not known.
    """
    return _STRUCTURES.get(name_words(name))


def structure_code(name: str, entry: str | None = None) -> Code | None:
    """What two labels of one structure have in common, whatever they are called.

    Args:
        name: where `find_structure` knows it, its code counts.
        entry: else the label's own serialised entry, which a person may have chosen for a name in another language.

    Returns:
        Scheme and value of type, type modifier, region and region modifier; None where no more is known than "tissue".
    """
    structure = find_structure(name)
    parts = (structure.terminology if structure else entry or GENERIC_TISSUE).split("~")
    code = tuple(tuple(part.split("^")[:2]) for part in (*parts[2:4], *parts[5:]))
    return None if code[0] in (tuple(_TISSUE.split("^")[:2]), ("", "")) else code


def name_words(name: str) -> frozenset[str]:
    """The words of a name in one spelling, whatever their order, capitals, accents and the signs between them."""
    plain = _ACCENT.sub("", unicodedata.normalize("NFKD", _CAMEL_CASE.sub(" ", name).casefold()))
    words = _WORD.findall(plain)
    spelled = " ".join(_SPELLINGS.get(word, word) for word in words if word not in _FILLERS)
    return frozenset(spelled.split())


_WORD = re.compile(r"[^\W_]+")
_ACCENT = re.compile(r"[\u0300-\u036f]")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_FILLERS = {"and", "the", "of", "gland", "glands", "structure"}
# One word each, as datasets and people write it; a short form may stand for several words.
_SPELLINGS = {
    "esophagus": "oesophagus",
    "eso": "oesophagus",
    "gall": "gallbladder",
    "sto": "stomach",
    "ivc": "inferior vena cava",
    "postcava": "inferior vena cava",
    "portosplenic": "portal splenic",
    "tumor": "tumour",
    "tumors": "tumour",
    "tumours": "tumour",
    "lesions": "lesion",
    "neoplasms": "neoplasm",
    "metastases": "metastasis",
    "edema": "oedema",
    "adrenals": "adrenal",
    "suprarenal": "adrenal",
    "lag": "left adrenal",
    "rag": "right adrenal",
    "lk": "left kidney",
    "lkid": "left kidney",
    "lkidney": "left kidney",
    "rk": "right kidney",
    "rkid": "right kidney",
    "rkidney": "right kidney",
    "kidneys": "kidney",
    "lungs": "lung",
    "veins": "vein",
    "l": "left",
    "lt": "left",
    "r": "right",
    "rt": "right",
    "myocardial": "myocardium",
}
# Without accents. Organs of the models that ship, and their sides, in German, French, Spanish, Italian and Latin.
_TRANSLATIONS = {
    "liver": "leber foie higado fegato hepar",
    "kidney": "niere nieren rein reins rinon rinones rene reni ren",
    "spleen": "milz rate bazo milza lien",
    "stomach": "magen estomac estomago stomaco",
    "pancreas": "pankreas bauchspeicheldruse",
    "gallbladder": "gallenblase",
    "oesophagus": "osophagus speiserohre esofago",
    "adrenal": "nebenniere nebennieren",
    "left": "links linke gauche izquierdo izquierda sinistro sinistra sinister",
    "right": "rechts rechte droit droite derecho derecha destro destra dexter",
}
_SPELLINGS |= {word: english for english, words in _TRANSLATIONS.items() for word in words.split()}


def _anatomy(names: str, code: str, color: Color, context: str = _GENERAL) -> list[tuple[str, Structure]]:
    structure = Structure(_entry(context, _ANATOMICAL, f"SCT^{code}"), color)
    return [(name, structure) for name in names.split("|")]


def _paired(name: str, code: str, color: Color, context: str = _GENERAL) -> list[tuple[str, Structure]]:
    sides = ((name, _NONE), (f"left {name}", _LEFT), (f"right {name}", _RIGHT))
    return [(each, Structure(_entry(context, _ANATOMICAL, f"SCT^{code}", side), color)) for each, side in sides]


def _altered(names: str, code: str, color: Color, context: str = _DICOM) -> list[tuple[str, Structure]]:
    structure = Structure(_entry(context, _ALTERED, f"SCT^{code}"), color)
    return [(name, structure) for name in names.split("|")]


_VEIN = (0, 151, 206)
_TUMOUR = (255, 64, 64)

# SNOMED CT has no single code for the portal and splenic veins as one structure: the portal vein stands for both.
_NAMED = [
    *_anatomy("liver", "10200004^Liver", (221, 130, 101)),
    *_anatomy("spleen", "78961009^Spleen", (157, 108, 162)),
    *_paired("kidney", "64033007^Kidney", (185, 102, 83)),
    *_anatomy("stomach", "69695003^Stomach", (216, 132, 105)),
    *_anatomy("gallbladder|gall bladder", "28231008^Gallbladder", (139, 150, 98)),
    *_anatomy("pancreas", "15776009^Pancreas", (249, 180, 111)),
    *_anatomy("oesophagus", "32849002^Esophagus", (211, 171, 143)),
    *_anatomy("aorta", "15825003^Aorta", (224, 97, 76)),
    *_anatomy("inferior vena cava", "64131007^Inferior vena cava", _VEIN, _DICOM),
    *_anatomy(
        "portal vein|portal vein splenic vein|portal splenic vein|portal vein splenic",
        "32764006^Portal vein",
        (0, 122, 171),
        _DICOM,
    ),
    *_anatomy("splenic vein", "35819009^Splenic vein", (0, 147, 202), _DICOM),
    *_paired("adrenal", "23451007^Adrenal gland", (249, 186, 150)),
    *_anatomy("duodenum", "38848004^Duodenum", (255, 253, 229)),
    *_anatomy("small intestine|small bowel", "30315005^Small Intestine", (205, 167, 142)),
    *_anatomy("colon", "71854001^Colon", (204, 168, 143)),
    *_anatomy("rectum", "34402009^Rectum", (204, 168, 143), _DICOM),
    *_anatomy("bladder|urinary bladder", "89837001^Bladder", (222, 154, 132)),
    *_anatomy("prostate", "41216001^Prostate", (230, 158, 140)),
    *_paired("lung", "39607008^Lung", (197, 165, 145)),
    *_paired("femur", "71341001^Femur", (255, 238, 170), _DICOM),
    *_anatomy("heart", "80891009^Heart", (206, 110, 84)),
    *_anatomy("left ventricle|lv|left ventricular cavity", "87878005^Left Ventricle", (152, 55, 13)),
    *_anatomy("right ventricle|rv|right ventricular cavity", "53085002^Right Ventricle", (181, 85, 57)),
    *_anatomy("myocardium|myo|left ventricular myocardium", "74281007^Myocardium", (233, 138, 112)),
    *_anatomy("left atrium", "82471001^Left atrium", (203, 108, 81), _DICOM),
    *_anatomy("right atrium", "73829009^Right atrium", (210, 115, 89), _DICOM),
    *_anatomy("brain", "12738006^Brain", (250, 250, 225)),
    *_anatomy("spinal cord", "2748008^Spinal cord", (244, 214, 49)),
    *_anatomy("skull", "89546000^Skull", (241, 213, 144)),
    *_anatomy("head", "69536005^Head", (177, 122, 101)),
    *_paired("eyeball", "79652003^Eyeball", (194, 142, 0)),
    *_paired("parotid", "45289007^Parotid gland", (230, 175, 120), _DICOM),
    *_altered("tumour|neoplasm|cancer", "108369006^Neoplasm", _TUMOUR),
    *_altered("gtv|gtvp|gross tumour volume|primary tumour", "86049000^Neoplasm, Primary", _TUMOUR),
    *_altered("gtvn|metastasis", "14799000^Neoplasm, Secondary", (255, 140, 0)),
    *_altered("lesion", "52988006^Lesion", (230, 80, 150)),
    *_altered("mass", "4147007^Mass", (144, 238, 144), _GENERAL),
    *_altered("cyst", "367643001^Cyst", (205, 205, 100), _GENERAL),
    *_altered("oedema", "79654002^Edema", (140, 224, 228), _GENERAL),
    *_altered("necrosis", "6574001^Necrosis", (216, 191, 216), _GENERAL),
    ("tissue", Structure(GENERIC_TISSUE, (128, 174, 128))),
    ("background", Structure(BACKGROUND, (0, 0, 0))),
]
_STRUCTURES = {name_words(name): structure for name, structure in _NAMED}
