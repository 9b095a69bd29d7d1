"""Tissue table: Hounsfield units, relaxation times at 1.5 T and 3 T, proton density, diffusion, with their sources.

Sources (short names used in the table):

* Stanisz 2005: Stanisz et al., T1, T2 relaxation and magnetization transfer in tissue at 3T, Magn Reson Med 54:507.
* de Bazelaire 2004: de Bazelaire et al., MR imaging relaxation times of abdominal and pelvic tissues measured in vivo
  at 3.0 T: preliminary results, Radiology 230:652.
* Bojorquez 2017: Bojorquez et al., What are normal relaxation times of tissues at 3 T?, Magn Reson Imaging 35:69.
* Rooney 2007: Rooney et al., Magnetic field and tissue dependencies of human brain longitudinal 1H2O relaxation in
  vivo, Magn Reson Med 57:308.
* Spijkerman 2018: Spijkerman et al., T2 mapping of cerebrospinal fluid: 3 T versus 7 T, MAGMA 31:415.
* Woodard 1986: Woodard and White, The composition of body tissues, Br J Radiol 59:1209 (water content, taken as proton
  density relative to water).
* Schneider 2000: Schneider et al., Correlation between CT numbers and tissue parameters needed for Monte Carlo
  simulations of clinical dose distributions, Phys Med Biol 45:459.
* Lamba 2014: Lamba et al., CT Hounsfield numbers of soft tissues on unenhanced abdominal CT scans, AJR 203:1013.
* Zhao 2021: synthetic MRI of nasopharyngeal carcinoma and benign hyperplasia, Clin Radiol, doi
  10.1016/j.crad.2020.10.010 (order of T1, T2 and PD: carcinoma below benign hyperplasia).

"Assumed" marks a number that no source above prints; it was chosen between the tissues it is said to lie between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import InputError

FIELD_STRENGTHS = (1.5, 3.0)


@dataclass(frozen=True)
class Tissue:
    """One tissue's CT number and magnetic resonance parameters.

    Attributes:
        name: Unique name.
        hu: Mean CT number, HU.
        hu_texture: Standard deviation of the anatomical texture (not of scanner noise), HU.
        t1: Longitudinal relaxation time of the water part at 1.5 T and at 3 T, ms.
        t2: Transverse relaxation time of the water part at 1.5 T and at 3 T, ms.
        density: Proton density relative to water, 0..1.
        fat: Share of the protons that belong to fat, 0..1.
        adc: Apparent diffusion coefficient of the water part, 1e-3 mm^2/s.
        mr_texture: Standard deviation of the anatomical texture relative to the signal.
        source: Where the numbers come from.
    """

    name: str
    hu: float
    hu_texture: float
    t1: tuple[float, float]
    t2: tuple[float, float]
    density: float
    fat: float
    adc: float
    mr_texture: float
    source: str

    def __post_init__(self) -> None:
        if not -1024 <= self.hu <= 3071:
            raise InputError(f"The CT number of {self.name} must lie in -1024..3071 HU, got {self.hu}.")
        if min(*self.t1, *self.t2) <= 0:
            raise InputError(f"T1 and T2 of {self.name} must be positive, got {self.t1} and {self.t2} ms.")
        if not (0 <= self.density <= 1 and 0 <= self.fat <= 1):
            raise InputError(f"Proton density and fat share of {self.name} must lie in 0..1.")

    def relaxation(self, field_strength: float) -> tuple[float, float]:
        """T1 and T2 of the water part (ms) at a field strength (tesla).

        Raises:
            InputError: The table has no values for this field strength.
        """
        if field_strength not in FIELD_STRENGTHS:
            raise InputError(f"The tissue table holds values for 1.5 T and 3 T, got {field_strength} T.")
        index = FIELD_STRENGTHS.index(field_strength)
        return self.t1[index], self.t2[index]


#: Relaxation of fat protons: subcutaneous fat, de Bazelaire 2004. (T1 at 1.5/3 T, T2 at 1.5/3 T), ms.
FAT_T1 = (343.0, 382.0)
FAT_T2 = (58.0, 68.0)

_SOLID = (1000.0, 1200.0)
_FAST = (1.0, 0.8)

_ROWS: tuple[tuple, ...] = (
    # name, HU, HU texture, T1 (1.5, 3 T), T2 (1.5, 3 T), density, fat, ADC, MR texture, source
    ("air", -1000, 0, _SOLID, _FAST, 0.0, 0.0, 0.0, 0.0, "no protons; CT number by definition"),
    ("lung", -820, 35, (1171, 1270), (10.0, 6.0), 0.22, 0.0, 0.0, 0.25, "Schneider 2000 (inflated lung); MR assumed"),
    ("fat", -102, 7, FAT_T1, FAT_T2, 0.95, 0.95, 0.3, 0.05, "Schneider 2000; de Bazelaire 2004"),
    ("visceral_fat", -98, 9, FAT_T1, FAT_T2, 0.92, 0.93, 0.3, 0.08, "Lamba 2014; de Bazelaire 2004"),
    ("skin", 40, 10, (900, 1100), (30, 30), 0.62, 0.05, 1.0, 0.08, "Woodard 1986 (water); T1 and T2 assumed"),
    ("muscle", 58, 6, (1008, 1412), (44, 50), 0.79, 0.03, 1.5, 0.08, "Lamba 2014; Stanisz 2005; Woodard 1986"),
    ("tongue", 52, 8, (950, 1350), (46, 52), 0.80, 0.14, 1.4, 0.10, "assumed: muscle with fat between the fibres"),
    ("bone_cortex", 1150, 180, _SOLID, _FAST, 0.18, 0.0, 0.0, 0.1, "Schneider 2000; T2 below 1 ms"),
    ("bone_spongy", 330, 70, (549, 586), (49, 49), 0.55, 0.45, 0.4, 0.10, "Schneider 2000; de Bazelaire 2004 (L4)"),
    ("vertebra", 190, 32, (549, 586), (49, 49), 0.60, 0.38, 0.4, 0.09, "de Bazelaire 2004 (L4 marrow); HU assumed"),
    ("tooth", 2400, 200, _SOLID, _FAST, 0.05, 0.0, 0.0, 0.0, "assumed: enamel and dentine"),
    ("cartilage", 95, 10, (1024, 1168), (30, 27), 0.75, 0.0, 1.2, 0.05, "Stanisz 2005"),
    ("disc", 85, 12, (1000, 1180), (70, 62), 0.78, 0.0, 1.4, 0.12, "assumed: between cartilage and muscle"),
    ("white_matter", 29, 1.2, (656, 1084), (72, 69), 0.70, 0.0, 0.75, 0.02, "Rooney 2007 (T1, 1.5 T); Stanisz 2005"),
    ("grey_matter", 38, 1.5, (1188, 1820), (95, 99), 0.83, 0.0, 0.85, 0.03, "Rooney 2007 (T1, 1.5 T); Stanisz 2005"),
    ("brainstem", 31, 1.5, (700, 1150), (78, 74), 0.73, 0.0, 0.80, 0.03, "assumed: Stanisz 2005, mostly white matter"),
    ("spinal_cord", 35, 2, (745, 993), (74, 78), 0.74, 0.0, 0.85, 0.03, "Stanisz 2005"),
    ("csf", 6, 2, (4300, 4300), (2000, 1900), 1.0, 0.0, 3.0, 0.03, "Rooney 2007; Spijkerman 2018"),
    ("vitreous", 8, 2, (4000, 4000), (1000, 900), 0.99, 0.0, 2.9, 0.01, "assumed: close to CSF"),
    ("lens", 75, 4, (1000, 1100), (30, 27), 0.65, 0.0, 0.8, 0.0, "assumed: close to cartilage"),
    ("mucosa", 48, 6, (1100, 1550), (95, 112), 0.85, 0.0, 1.5, 0.10, "Zhao 2021 (above carcinoma)"),
    ("lymph_node", 50, 5, (1000, 1400), (82, 88), 0.82, 0.0, 0.95, 0.06, "assumed: between muscle and mucosa"),
    ("parotid", 12, 14, (700, 850), (75, 81), 0.88, 0.30, 1.1, 0.10, "Bojorquez 2017; fat assumed"),
    ("submandibular", 42, 8, (850, 1050), (72, 78), 0.85, 0.10, 1.2, 0.08, "assumed: parotid with less fat"),
    ("npc", 72, 8, (1020, 1330), (84, 92), 0.82, 0.0, 0.85, 0.10, "Zhao 2021 (below hyperplasia, above muscle)"),
    ("npc_necrosis", 26, 6, (1800, 2300), (150, 160), 0.92, 0.0, 1.9, 0.10, "assumed: towards free fluid"),
    ("blood_flow", 165, 8, (1441, 1932), (16, 12), 0.82, 0.0, 1.5, 0.10, "Stanisz 2005 (T1); T2 cut down for outflow"),
    ("blood_neck", 125, 10, (1441, 1932), (16, 12), 0.82, 0.0, 1.5, 0.10, "Stanisz 2005 (T1); T2 cut down for outflow"),
    ("blood_slow", 150, 8, (1441, 1932), (42, 36), 0.82, 0.0, 1.5, 0.10, "Stanisz 2005 (T1); T2 cut down for outflow"),
    ("liver", 112, 6, (586, 809), (46, 40), 0.76, 0.05, 1.05, 0.05, "de Bazelaire and Stanisz; HU portal venous"),
    ("spleen", 122, 6, (1057, 1328), (79, 61), 0.80, 0.0, 0.80, 0.04, "de Bazelaire 2004; HU portal venous"),
    ("kidney_cortex", 178, 10, (966, 1142), (87, 76), 0.82, 0.0, 1.95, 0.05, "de Bazelaire 2004; HU portal venous"),
    ("kidney_medulla", 152, 10, (1412, 1545), (85, 81), 0.85, 0.0, 1.85, 0.05, "de Bazelaire 2004; HU portal venous"),
    ("pancreas", 92, 10, (584, 725), (46, 43), 0.80, 0.10, 1.3, 0.10, "de Bazelaire 2004; HU portal venous"),
    ("gallbladder_wall", 78, 6, (900, 1150), (52, 52), 0.78, 0.0, 1.5, 0.05, "assumed: smooth muscle"),
    ("bile", 9, 3, (2600, 2800), (420, 400), 0.97, 0.0, 2.8, 0.05, "assumed: watery fluid; Lamba 2014 (HU)"),
    ("gut_wall", 88, 9, (950, 1250), (52, 54), 0.78, 0.02, 1.6, 0.08, "assumed: smooth muscle; HU portal venous"),
    ("gut_fluid", 18, 8, (2300, 2500), (260, 230), 0.95, 0.0, 2.6, 0.12, "assumed: watery fluid"),
    ("chyme", 42, 16, (1000, 1200), (90, 85), 0.80, 0.06, 1.8, 0.20, "assumed: thick suspension"),
    ("stool", 10, 55, (700, 800), (45, 40), 0.50, 0.05, 1.2, 0.25, "assumed: solids with gas"),
    ("adrenal", 70, 6, (900, 1100), (68, 64), 0.80, 0.08, 1.1, 0.05, "assumed: between kidney and liver"),
    ("heart", 120, 8, (1030, 1471), (40, 47), 0.80, 0.0, 1.6, 0.06, "Stanisz 2005; HU portal venous"),
)

TISSUES: Mapping[str, Tissue] = MappingProxyType({row[0]: Tissue(*row) for row in _ROWS})


def tissue(name: str) -> Tissue:
    """The tissue called `name`.

    Raises:
        InputError: The table has no such tissue.
    """
    if name not in TISSUES:
        raise InputError(f"There is no tissue called {name!r} in the table; it has {', '.join(sorted(TISSUES))}.")
    return TISSUES[name]
