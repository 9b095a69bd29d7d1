"""Head and neck with an irregular nasopharyngeal tumour.

Anatomy coordinates: origin in the middle of the nasopharynx, x to the patient's left, y backwards, z upwards, mm.
"""

from __future__ import annotations

import numpy as np

from ..labels import LabelTable
from .anatomy import Anatomy, Bulge, Part, part, random_warp
from .fields import smooth_field
from .shapes import (
    Shape,
    bands,
    complement,
    difference,
    ellipsoid,
    half_space,
    intersection,
    noise_solid,
    shell,
    tube,
    union,
)

_INF = float("inf")
_SIDES = (1.0, -1.0)
TUMOUR = 1
_SEEN_IN_ONE = 0.13  # share of the tumour that only CT shows, and that only MR shows


def _around(rng: np.random.Generator, point: tuple[float, float, float], sd: float = 1.5) -> tuple[float, float, float]:
    return tuple(float(value) for value in np.asarray(point) + np.clip(rng.normal(0, sd, 3), -2 * sd, 2 * sd))


def _pair(
    rng: np.random.Generator, centre: tuple, radii: tuple, degrees: tuple = (0.0, 0.0, 0.0), sd: float = 1.2
) -> Shape:
    """An ellipsoid on the left and its mirror image on the right, each a little different."""
    solids = []
    for side in _SIDES:
        size = tuple(float(r) for r in np.asarray(radii) * np.exp(np.clip(rng.normal(0, 0.06, 3), -0.12, 0.12)))
        turn = (degrees[0], side * degrees[1], side * degrees[2])
        solids.append(ellipsoid(_around(rng, (side * centre[0], centre[1], centre[2]), sd), size, turn))
    return union(*solids)


def _mirrored_tube(points: list[tuple], radii: list[float] | float, flatten: float = 1.0) -> Shape:
    return union(*(tube([(side * x, y, z) for x, y, z in points], radii, flatten) for side in _SIDES))


def _cavity() -> Shape:
    """The inside of the skull."""
    return union(
        ellipsoid((0, 9, 60), (64, 80, 48)),
        ellipsoid((36, 2, 20), (22, 30, 18)),
        ellipsoid((-36, 2, 20), (22, 30, 18)),
        ellipsoid((0, 52, 18), (47, 34, 34)),
        blend_mm=8,
    )


def _outline(rng: np.random.Generator) -> Shape:
    """The skin's outer surface without the ears."""
    face = float(rng.normal(0, 2))
    above = union(half_space((0, 0, 1), -18), ellipsoid((0, 6, 30), (90, 100, 95)), blend_mm=10)
    head_and_neck = union(
        ellipsoid((0, 10, 46), (77, 93, 88)),
        ellipsoid((0, -16 + face, -22), (70, 71, 80)),
        ellipsoid((0, 30, -75), (69, 59, _INF)),
        blend_mm=14,
    )
    nose = union(
        ellipsoid((0, -87 + face, -10), (11, 15, 17), (-18, 0, 0)),
        ellipsoid((0, -82 + face, -36), (18, 8, 9)),
        ellipsoid((0, -78 + face, -58), (19, 11, 12)),
        blend_mm=8,
    )
    outline = union(intersection(head_and_neck, above), nose, blend_mm=8)
    return outline.within((-95, -115, -_INF), (95, 115, 150))


def _cover(rng: np.random.Generator, outline: Shape) -> list[Part]:
    """What closes the head: fat under the skin, skin, the air around, the ears."""
    fat_mm = float(rng.uniform(3.5, 6.5))
    cheeks = _pair(rng, (44, -52, -20), (17, 17, 20))
    cover = shell(outline, 2.2 + fat_mm)
    return [
        part(union(cover, intersection(cheeks, outline)), "fat"),
        part(shell(outline, 2.2), "skin"),
        part(complement(outline), "air"),
        part(_pair(rng, (79, 24, 0), (4, 15, 26), (0, 0, 18)), "skin"),
        part(_pair(rng, (79, 24, 0), (1.6, 12, 22), (0, 0, 18), 0.4), "cartilage"),
    ]


def _muscles(rng: np.random.Generator) -> list[Part]:
    """Muscles in two layers, so that thin fat planes part them."""
    rough = smooth_field(rng, 12)
    neck = [
        _pair(rng, (15, 76, -48), (17, 13, 60), (6, 0, -14)),  # trapezius and semispinalis
        _pair(rng, (38, 62, -44), (18, 23, 60), (8, 0, 35)),  # splenius
        _pair(rng, (17, 61, -32), (15, 12, 30)),  # suboccipital muscles
        _pair(rng, (29, 27, -52), (14, 13, 50)),  # scalenes and levator scapulae
        _pair(rng, (57, 32, -50), (10, 19, 50), (14, 6, 24)),  # sternocleidomastoid
        _pair(rng, (9, 15.5, -34), (9.5, 7, 46)),  # longus colli and capitis
    ]
    face = [
        _pair(rng, (58, -22, -26), (9, 20, 28), (0, -8, 12)),  # masseter
        _pair(rng, (38, -16, -22), (8.5, 17, 25), (0, 14, -10)),  # medial pterygoid
        _pair(rng, (36, -17, 0), (15, 20, 11), (0, 0, 30)),  # lateral pterygoid
        _pair(rng, (60, -24, 18), (10, 28, 28), (0, 6, 10)),  # temporalis
        _pair(rng, (41, 13, -26), (6, 10, 18), (0, 16, 0)),  # digastric and styloid muscles
        _pair(rng, (18, -40, -60), (17, 34, 8)),  # floor of the mouth
        ellipsoid((0, -22, -62), (26, 20, 30)),  # suprahyoid and strap muscles
        _pair(rng, (26, -14, -48), (11, 17, 22)),  # pharyngeal constrictors and hyoglossus
        _pair(rng, (14, -82, -34), (14, 6, 9)),  # lips
        _pair(rng, (44, -48, -28), (3.5, 20, 15), (0, 0, 25)),  # buccinator
    ]
    parts = []
    for group in (*neck, *face):
        parts += [part(group.grown(1.0), "fat"), part(group.roughened(rough, 0.9), "muscle")]
    return parts


def _glands(rng: np.random.Generator) -> list[Part]:
    rough = smooth_field(rng, 9)
    parotid = _pair(rng, (56, 4, -22), (11, 17, 25), (0, 0, 28)).roughened(rough, 1.6)
    deep = _pair(rng, (46, 8, -18), (8, 7, 14))
    return [
        part(union(parotid, deep, blend_mm=4), "parotid"),
        part(_pair(rng, (30, -26, -54), (8, 15, 10)).roughened(rough, 1.0), "submandibular"),
    ]


def _spine(rng: np.random.Generator) -> list[Part]:
    phase = float(rng.uniform(-4, 4))
    below = half_space((0, 0, 1), -16)
    column = intersection(ellipsoid((0, 28, -60), (11, 8.5, _INF)), below).within(high=(20, 45, -14))
    bodies = intersection(column, bands((0, 0.17, 1), 17, 13, phase))
    ring = difference(ellipsoid((0, 46, -60), (20, 14, _INF)), ellipsoid((0, 45, -60), (14, 9.5, _INF)))
    arch = intersection(union(ring, ellipsoid((0, 66, -60), (3.5, 12, _INF))), bands((0, 0.35, 1), 17, 8, phase), below)
    arch = arch.within((-25, 25, -_INF), (25, 80, -14))
    lateral = intersection(_pair(rng, (19, 31, -60), (9, 6, _INF)), bands((0, 0.1, 1), 17, 10, phase), below)
    lateral = lateral.within((-32, 20, -_INF), (32, 42, -14))
    atlas = _pair(rng, (19, 32, -19), (9, 9, 8))
    dens = tube([(0, 25, -32), (0, 24, -14)], 5.5)
    bone = union(bodies, arch, lateral, atlas, dens)
    return [
        part(column, "disc"),
        part(bone, "bone_cortex"),
        part(bone.grown(-1.7), "bone_spongy"),
    ]


def _skull(rng: np.random.Generator, cavity: Shape) -> list[Part]:
    vault = cavity.grown(6.5).roughened(smooth_field(rng, 25), 0.8)
    cells = noise_solid(smooth_field(rng, 4.5), 0.1, 3.0)
    mastoid = _pair(rng, (54, 40, -4), (11, 15, 19), (0, -10, 0))
    petrous = _mirrored_tube([(58, 34, 6), (20, 14, 8)], [10, 6])
    return [
        part(mastoid, "bone_cortex"),
        part(vault, "bone_cortex"),
        part(intersection(vault.grown(-1.9), half_space((0, 0, -1), 2)), "bone_spongy"),
        part(tube([(0, 8, 14), (0, 20, -12)], [9, 7]), "bone_cortex"),
        part(tube([(0, 9, 12), (0, 19, -9)], [6.5, 4.5]), "bone_spongy"),
        part(cavity.grown(1.6), "bone_cortex"),
        part(petrous, "bone_cortex"),
        part(intersection(mastoid.grown(-2), cells), "air"),
    ]


def _brain(rng: np.random.Generator, cavity: Shape) -> list[Part]:
    folds = smooth_field(rng, 8)
    deep = smooth_field(rng, 9)
    above = half_space((0, 0, -1), -26)
    falx = intersection(ellipsoid((0, 9, 60), (1.3, 90, 60)), above)
    hind = ellipsoid((0, 58, 14), (41, 26, 28))
    folia = intersection(hind.grown(-4), noise_solid(smooth_field(rng, 5), 0.0, 3.0))
    stem = tube([(0, 16, 44), (0, 24, 28), (0, 32, 12), (0, 41, -14)], [9, 12.5, 13.5, 7.5])
    return [
        part(cavity, "csf"),
        part(cavity.grown(-1.5).roughened(folds, 1.9), "grey_matter"),
        part(cavity.grown(-8.5).roughened(deep, 4.2), "white_matter"),
        part(intersection(cavity.grown(-5), noise_solid(folds, 1.35, 6.0)), "csf"),
        part(_pair(rng, (23, -4, 52), (7, 19, 12)), "grey_matter"),
        part(_pair(rng, (9, 14, 48), (7, 11, 9)), "grey_matter"),
        part(falx, "csf"),
        part(tube([(0, 20, 22), (0, 26, 12), (0, 38, -16)], [20, 18, 13]), "csf"),
        part(intersection(hind.grown(3), cavity), "csf"),
        part(intersection(hind, cavity.grown(-1)), "grey_matter"),
        part(intersection(folia, cavity.grown(-3)), "white_matter"),
        part(stem, "brainstem"),
        part(ellipsoid((0, 45, 13), (7, 4, 9)), "csf"),
        part(_mirrored_tube([(8, -20, 56), (11, 6, 62), (20, 34, 58)], [5, 4.5, 6]), "csf"),
        part(ellipsoid((0, 4, 44), (2.2, 12, 8)), "csf"),
    ]


def _orbits(rng: np.random.Generator) -> list[Part]:
    cone = _pair(rng, (30, -56, 22), (18, 24, 17), (0, 0, -18), 0.5)
    globes, lenses, nerves, muscles = [], [], [], []
    for side in _SIDES:
        x, y, z = _around(rng, (side * 32, -63, 22), 0.8)
        globes.append(ellipsoid((x, y, z), (12, 12, 12)))
        lenses.append(ellipsoid((x, y - 8.5, z), (4.5, 2.2, 4.5)))
        nerves.append(tube([(x, y + 11, z), (side * 20, -34, 24), (side * 6, -16, 32)], 2.3))
        for dx, dz in ((11, 0), (-11, 0), (0, 11), (0, -11)):
            muscles.append(tube([(x + dx, y + 2, z + dz), (side * 17, -32, 25)], [1.8, 1.6]))
    return [
        part(cone.grown(2.2), "bone_cortex"),
        part(cone, "fat"),
        part(union(*muscles), "muscle"),
        part(union(*nerves), "white_matter"),
        part(union(*globes).grown(1.0), "skin"),
        part(union(*globes), "vitreous"),
        part(union(*lenses), "lens"),
    ]


def _jaws(rng: np.random.Generator) -> list[Part]:
    arch = difference(
        ellipsoid((0, -16, -52), (49, 65, 13)), ellipsoid((0, -12, -52), (40, 55, 22)), half_space((0, -1, 0), 6)
    )
    ramus = _pair(rng, (47, -10, -26), (4.5, 15, 29), (10, 4, 0), 0.8)
    condyle = _pair(rng, (51, 4, 1), (9, 4.5, 5), sd=0.8)
    mandible = union(arch, ramus, condyle, blend_mm=3)
    upper = difference(ellipsoid((0, -47, -26), (29, 35, 8)), ellipsoid((0, -41, -30), (21, 28, 13)))
    upper = intersection(upper, half_space((0, 1, 0), -30))
    palate = intersection(ellipsoid((0, -48, -20), (25, 32, 2.6)), half_space((0, 1, 0), -22))
    angles = np.deg2rad(np.linspace(-82, 82, 13))
    teeth = []
    for height in (-35.0, -44.0):
        for angle in angles:
            if rng.random() < 0.06:
                continue
            centre = (28 * np.sin(angle), -46 - 32 * np.cos(angle), height)
            teeth.append(ellipsoid(_around(rng, centre, 0.4), (3.3, 3.3, 6.5)))
    tongue = union(ellipsoid((0, -38, -42), (23, 32, 15)), ellipsoid((0, -20, -52), (19, 15, 18)), blend_mm=6)
    return [
        part(tongue.roughened(smooth_field(rng, 10), 0.7), "tongue"),
        part(ellipsoid((0, -17, -22), (15, 12, 4), (25, 0, 0)), "muscle"),
        part(_mirrored_tube([(42, -58, -4), (62, -34, 3), (61, -4, 4)], [4.5, 3, 3.5]), "bone_cortex"),
        part(union(mandible, upper, palate), "bone_cortex"),
        part(union(mandible, upper).grown(-2.2), "bone_spongy"),
        part(union(*teeth), "tooth"),
    ]


def _airways(rng: np.random.Generator) -> list[Part]:
    sinus = _pair(rng, (25, -50, -2), (13, 17, 15), (0, 0, 12))
    sphenoid = ellipsoid(_around(rng, (0, -9, 24), 1), (15, 11, 10))
    ethmoid = _pair(rng, (9, -42, 24), (7, 19, 11), sd=0.5)
    septa = bands((0.3, 1, 0.2), 11, 1.2, float(rng.uniform(0, 11)))
    lumen = [
        _pair(rng, (6, -52, -4), (5, 33, 15), (0, 0, 3), 0.4),
        ellipsoid((0, -8, -3), (14, 10, 13)),
        tube([(0, -5, -8), (0, 0, -30), (0, 2, -55), (0, 2, -120)], [9, 9, 10, 9]),
    ]
    airway = union(*lumen, blend_mm=5)
    turbinates = union(_pair(rng, (8.5, -50, -12), (4, 24, 4.5), sd=0.7), _pair(rng, (8, -46, 2), (3, 19, 3.5), sd=0.7))
    return [
        part(union(sinus.grown(1.2), sphenoid.grown(1.6), ethmoid.grown(1.2)), "bone_cortex"),
        part(intersection(airway.grown(7.5), half_space((0, 1, 0), 14), half_space((0, -1, 0), 16)), "muscle"),
        part(airway.grown(3.2), "mucosa"),
        part(sinus, "mucosa"),
        part(sinus.grown(-float(rng.uniform(0.3, 2.5))), "air"),
        part(union(sphenoid, difference(ethmoid, septa)), "air"),
        part(airway, "air"),
        part(turbinates, "mucosa"),
        part(ellipsoid((0, -54, 0), (1.1, 32, 20)), "cartilage"),
        part(_mirrored_tube([(80, 24, 1), (48, 22, 2)], 2.8), "air"),
    ]


def _vessels(rng: np.random.Generator) -> list[Part]:
    carotid = _mirrored_tube([(25, 18, -120), (27, 15, -40), (27, 17, -8), (22, 6, 8)], 3.0)
    jugular = _mirrored_tube([(36, 20, -120), (36, 22, -40), (32, 27, -4)], [6, 5.5, 4.5])
    nodes = []
    for _ in range(int(rng.integers(3, 7))):
        side = rng.choice(_SIDES)
        radius = float(rng.uniform(2.8, 5.5))
        nodes.append(ellipsoid(_around(rng, (side * 43, 14, -46), 6), (radius, radius, radius * 1.6)))
    retropharyngeal = ellipsoid(_around(rng, (rng.choice(_SIDES) * 19, 13, -10), 1), (4, 3.5, 6))
    return [
        part(union(*nodes, retropharyngeal), "lymph_node"),
        part(carotid, "blood_neck"),
        part(jugular, "blood_neck"),
    ]


def _tumour(rng: np.random.Generator, cavity: Shape, centre: np.ndarray, radius: float) -> list[Part]:
    """The irregular tumour, with parts that only one modality sees, and the airway that it leaves."""
    solids = [ellipsoid(tuple(centre), tuple(radius * rng.uniform(0.8, 1.15, 3)), tuple(rng.uniform(-35, 35, 3)))]
    side = np.sign(centre[0]) or 1.0
    for _ in range(int(rng.integers(3, 6))):
        direction = rng.normal(0, 1, 3) * (1.2, 0.7, 1.0) + (0.6 * side, -0.15, 0.1)
        direction /= np.linalg.norm(direction)
        size = radius * rng.uniform(0.38, 0.62, 3)
        solids.append(ellipsoid(tuple(centre + direction * radius * rng.uniform(0.85, 1.2)), tuple(size)))
    whole = union(*solids, blend_mm=5).roughened(smooth_field(rng, 11), 2.0)
    whole = whole.roughened(smooth_field(rng, 5.5), 0.8)
    # It may erode the skull base but leaves the brain and the spinal canal alone.
    whole = difference(whole, cavity.grown(0.5), tube([(0, 43, -12), (0, 46, -120)], 15))
    seen = smooth_field(rng, 13)
    probes = (np.asarray(centre)[:, None] + 0.6 * radius * rng.normal(0, 1, (3, 400))).astype(np.float32)
    mr_only, ct_only = np.quantile(seen(*probes), (_SEEN_IN_ONE, 1 - _SEEN_IN_ONE))
    necrosis = intersection(whole.grown(-3.5), noise_solid(smooth_field(rng, 9), 1.3, 7.0))
    slit = ellipsoid(_around(rng, (-side * 8, -13, -5), 1), (4.5, 7, 9), (0, 0, side * 20))
    adenoid = ellipsoid(_around(rng, (-side * 9, 1, 4), 1), (8, 6, 8)).roughened(smooth_field(rng, 7), 1.2)
    return [
        part(adenoid, "mucosa"),
        part(whole, "npc", TUMOUR),
        Part(intersection(whole, noise_solid(seen, float(ct_only), 9.0)), "npc", "muscle", TUMOUR),
        Part(intersection(whole, noise_solid(seen, float(mr_only), -9.0)), "muscle", "npc", TUMOUR),
        part(necrosis, "npc_necrosis", TUMOUR),
        part(slit.grown(1.5), "mucosa"),
        part(slit, "air"),
    ]


def head(rng: np.random.Generator) -> Anatomy:
    """Draw one head and neck; the only label is the tumour, "GTV"."""
    side = float(rng.choice(_SIDES))
    radius = float(rng.uniform(12.5, 17.5))
    centre = np.array([side * rng.uniform(3, 11), rng.uniform(-4, 4), rng.uniform(-7, 2)])
    cavity = _cavity()
    outline = _outline(rng)
    groups = (
        [part(outline, "fat")],
        _muscles(rng),
        _glands(rng),
        _spine(rng),
        _skull(rng, cavity),
        _jaws(rng),
        _cover(rng, outline),
        _orbits(rng),
        _brain(rng, cavity),
        _spine_canal(),
        _vessels(rng),
        _airways(rng),
        _tumour(rng, cavity, centre, radius),
    )
    warp = random_warp(
        rng,
        rotation_deg=3.5,
        shift_mm=2.5,
        scale=0.025,
        length_mm=38,
        amplitude_mm=1.8,
        bulge=Bulge(tuple(float(value) for value in centre), 0.55 * radius),
    )
    metal = tuple((float(x), float(y), -39.0) for x, y in _fillings(rng))
    dense = (((48.0, 30.0, 6.0), (-48.0, 30.0, 6.0)),)
    return Anatomy(tuple(p for group in groups for p in group), warp, LabelTable.from_names(("GTV",)), metal, dense)


def _fillings(rng: np.random.Generator) -> list[tuple[float, float]]:
    angles = np.deg2rad(rng.uniform(-75, 75, int(rng.integers(1, 4))))
    return [(28 * np.sin(angle), -46 - 32 * np.cos(angle)) for angle in angles]


def _spine_canal() -> list[Part]:
    canal = tube([(0, 41, -6), (0, 43, -14), (0, 45, -40), (0, 46, -120)], [13, 12, 9.5, 9.5])
    cord = tube([(0, 38, -6), (0, 41, -14), (0, 45, -40), (0, 46, -120)], [8, 7, 5.6, 5.4])
    return [part(canal.grown(1.5), "fat"), part(canal, "csf"), part(cord, "spinal_cord")]
