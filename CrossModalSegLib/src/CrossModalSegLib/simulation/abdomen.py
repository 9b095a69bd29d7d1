"""Upper abdomen with the seven organs of the WORD data set, portal venous phase.

Anatomy coordinates: origin in front of the first lumbar vertebra, x to the patient's left, y backwards, z upwards, mm.
"""

from __future__ import annotations

import numpy as np

from ..labels import LabelTable
from .anatomy import Anatomy, Part, part, random_warp
from .fields import SmoothField, smooth_field
from .shapes import (
    Shape,
    bands,
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
_BODY = (0.0, -32.0, 0.0)
ORGANS = ("liver", "spleen", "left kidney", "right kidney", "stomach", "gallbladder", "pancreas")
_VALUE = {name: value for value, name in enumerate(ORGANS, start=1)}
_FAT_PLANE_MM = 2.2


def _around(rng: np.random.Generator, point: tuple, sd: float) -> tuple[float, float, float]:
    return tuple(float(value) for value in np.asarray(point) + np.clip(rng.normal(0, sd, 3), -2 * sd, 2 * sd))


def _sized(rng: np.random.Generator, radii: tuple, sd: float = 0.07) -> tuple[float, float, float]:
    common = rng.normal(0, sd)
    factor = np.exp(np.clip(common + rng.normal(0, sd / 2, 3), -2 * sd, 2 * sd))
    return tuple(float(value) for value in np.asarray(radii) * factor)


def _turn(rng: np.random.Generator, degrees: tuple, sd: float = 6.0) -> tuple[float, float, float]:
    return tuple(float(value) for value in np.asarray(degrees) + np.clip(rng.normal(0, sd, 3), -2 * sd, 2 * sd))


def _torso(grow: float = 0.0) -> Shape:
    """Wall surfaces of the torso, `grow` mm outside the outer face of the ribs and abdominal muscles."""
    sides = union(
        ellipsoid((0, -32, 0), (138, 92, _INF)),
        ellipsoid((52, 0, 0), (62, 58, _INF)),
        ellipsoid((-52, 0, 0), (62, 58, _INF)),
        blend_mm=20,
    )
    return sides.grown(grow)


def _wall(rng: np.random.Generator, fat_mm: float) -> list[Part]:
    """Skin, fat, muscle, ribs; the fat inside is what organs are painted on."""
    front = ellipsoid((0, -32 - 0.35 * fat_mm, 0), (138 + fat_mm, 92 + 1.15 * fat_mm, _INF))
    skin = union(_torso(fat_mm), front, blend_mm=12)
    muscle_mm = float(rng.uniform(9, 12))
    wall = _torso()
    hollow = _torso(-muscle_mm)
    layers = shell(wall.grown(-0.5), muscle_mm)
    septum = shell(wall.grown(-0.5 * muscle_mm), 1.2)
    cage = half_space((0, 0.75, -1.0), 38)
    left = intersection(bands((0.28, -0.60, 1.0), 33, 9, float(rng.uniform(-4, 4))), half_space((-1, 0, 0), 0))
    right = intersection(bands((-0.28, -0.60, 1.0), 33, 9, float(rng.uniform(-4, 4))), half_space((1, 0, 0), 0))
    ribs = intersection(shell(wall.grown(-1.0), 6.5), union(left, right), cage)
    return [
        part(skin, "skin"),
        part(skin.grown(-2.2), "fat"),
        part(layers, "muscle"),
        part(intersection(septum, half_space((0, 1, 0), -20)), "fat"),
        part(hollow, "visceral_fat"),
        part(ribs, "bone_cortex"),
        part(ribs.grown(-2.0), "bone_spongy"),
    ]


def _back(rng: np.random.Generator) -> list[Part]:
    """Spine and the muscles beside it."""
    phase = float(rng.uniform(-16, 16))
    level = (0.0, 0.05, 1.0)
    column = ellipsoid((0, 31, 0), (22, 16.5, _INF))
    bodies = intersection(column, bands(level, 35, 26, phase))
    ring = difference(ellipsoid((0, 55, 0), (19, 15, _INF)), ellipsoid((0, 54, 0), (12, 8.5, _INF)))
    lamina = intersection(ring, bands(level, 35, 22, phase - 6))
    spinous = intersection(ellipsoid((0, 76, 0), (3.8, 17, _INF)), bands((0, 0.5, 1), 35, 18, phase + 30))
    process = union(*(ellipsoid((side * 32, 50, 0), (19, 4.5, _INF)) for side in (1, -1)))
    process = intersection(process, bands(level, 35, 9, phase))
    bone = union(bodies, lamina, spinous, process)
    erector = union(
        *(ellipsoid(_around(rng, (side * 36, 63, 0), 1.2), (27, 19, _INF)) for side in (1, -1)),
        *(ellipsoid((side * 16, 64, 0), (12, 15, _INF)) for side in (1, -1)),
    )
    psoas = union(
        *(tube([(side * 20, 32, 60), (side * 34, 34, 0), (side * 48, 26, -110)], [3, 15, 24]) for side in (1, -1))
    )
    quadratus = union(*(ellipsoid((side * 62, 50, -50), (19, 8, 48), (0, 0, side * 20)) for side in (1, -1)))
    marbling = noise_solid(smooth_field(rng, 9), 1.9, 7.0)
    crus = union(*(tube([(side * 14, 20, -30), (side * 13, 12, 30), (side * 9, 4, 70)], [3, 5, 4]) for side in (1, -1)))
    muscles = union(erector, psoas, quadratus, crus)
    return [
        part(erector.grown(1.8), "fat"),
        part(muscles, "muscle"),
        part(intersection(erector, marbling), "fat"),
        part(column, "disc"),
        part(bone, "bone_cortex"),
        part(bone.grown(-1.6), "vertebra"),
        part(ellipsoid((0, 54, 0), (11, 7.8, _INF)), "fat"),
        part(ellipsoid((0, 54, 0), (9, 6.8, _INF)), "csf"),
        part(ellipsoid((0, 53, 0), (5, 4, _INF)), "spinal_cord"),
    ]


def _diaphragm(rng: np.random.Generator, height: float) -> tuple[Shape, list[Part]]:
    """The space under the diaphragm, and the lungs and heart above it."""
    domes = union(
        ellipsoid((-62, -20, height - 85), (90, 98, 85)),
        ellipsoid((64, -12, height - 95), (86, 98, 85)),
        ellipsoid((0, -40, height - 100), (90, 62, 85)),
        half_space((0, -0.9, 1.0), -35),
        blend_mm=14,
    )
    chest = difference(intersection(_torso(-11), half_space((0, 0, -1), -10)), domes)
    lung = difference(
        chest,
        ellipsoid((0, 40, 0), (34, 34, _INF)),
        ellipsoid((12, -62, height + 8), (52, 48, 32)),
    )
    heart = intersection(ellipsoid((14, -62, height + 8), (47, 43, 28), _turn(rng, (0, 0, 20))), chest)
    vessels = noise_solid(smooth_field(rng, 8), 2.1, 6.0)
    return domes, [
        part(difference(chest, domes.grown(3)), "visceral_fat"),
        part(difference(_torso(-11), domes, half_space((0, 0, 1), 0)), "muscle"),
        part(difference(lung, domes.grown(2.5)), "lung"),
        part(intersection(lung, vessels), "blood_slow"),
        part(heart, "heart"),
    ]


def _bowel(rng: np.random.Generator) -> list[Part]:
    """Colon and small bowel: many distractors with gas, fluid and stool."""
    parts: list[Part] = []
    rough = smooth_field(rng, 16)
    colon = [
        [_around(rng, p, 5) for p in ((-104, 0, -110), (-106, 0, -55), (-96, -30, -28), (-60, -92, -42))],
        [_around(rng, p, 5) for p in ((-55, -95, -45), (0, -102, -52), (55, -92, -30), (96, -40, 20))],
        [_around(rng, p, 5) for p in ((108, -20, 22), (112, 12, -10), (108, 12, -60), (104, 0, -110))],
    ]
    for points in colon:
        radius = float(rng.uniform(14, 20))
        outer = tube(points, radius).roughened(rough, 2.6)
        stool = noise_solid(smooth_field(rng, 14), float(rng.uniform(-0.6, 0.6)), 10.0)
        inner = outer.grown(-2.6)
        parts += [part(outer, "gut_wall"), part(inner, "stool"), part(intersection(inner, stool), "air")]
    for number in range(44):
        upper_left = number % 4 == 0
        low, high = ((15, -78, -40), (88, -20, 22)) if upper_left else ((-84, -92, -100), (90, -14, -16))
        centre = tuple(float(value) for value in rng.uniform(low, high))
        start = np.asarray(centre)
        bend = rng.normal(0, 1, (2, 3)) * (22, 14, 12)
        radius = float(rng.uniform(9, 14))
        loop = tube([tuple(start - bend[0]), centre, tuple(start + bend[1])], radius).roughened(rough, 1.2)
        content = str(rng.choice(("gut_fluid", "chyme", "chyme", "gut_wall")))
        parts += [
            part(loop.grown(1.2), "visceral_fat"),
            part(loop, "gut_wall"),
            part(loop.grown(-2.4), content),
        ]
    return parts


def _vessels(rng: np.random.Generator) -> list[Part]:
    course = ((14, 22, 130), (9, 10, 40), (7, 6, -20), (5, 6, -120))
    aorta = tube([_around(rng, p, 1) for p in course], [12, 11, 10, 8.5])
    cava = tube(
        [_around(rng, p, 1.5) for p in ((-28, -12, 110), (-26, -2, 50), (-22, 4, 0), (-19, 6, -120))], [13, 12, 11, 10]
    )
    splenic = tube([(-20, -32, 18), (2, -34, 14), (38, -16, 26), (82, 14, 46)], [6.5, 5.5, 4.5, 4])
    mesenteric = tube([(-16, -32, 16), (-8, -36, -30), (-4, -40, -100)], [6.5, 5.5, 4.5])
    artery = tube([(6, 0, 12), (4, -28, -10), (4, -38, -90)], [4, 3.8, 3])
    renal = union(
        tube([(-22, 4, -2), (-48, 22, -10)], [5, 4]),
        tube([(-16, 0, 2), (14, -8, 2), (46, 20, 0)], [5, 4.5, 4]),
    )
    wall = [part(union(aorta, artery), "blood_flow"), part(cava, "blood_slow"), part(renal, "blood_slow")]
    return [*wall, part(union(splenic, mesenteric), "blood_slow")]


def _liver(rng: np.random.Generator, domes: Shape, rough: SmoothField) -> list[Part]:
    cavity = intersection(_torso(-13), domes.grown(-1))
    tip = float(rng.uniform(-18, 8))
    right = ellipsoid(_around(rng, (-66, -22, 40), 3), _sized(rng, (70, 80, 74), 0.05), _turn(rng, (0, 8, 0), 4))
    lower = ellipsoid(_around(rng, (-86, -14, 0), 4), _sized(rng, (38, 52, 50 - tip / 2), 0.08), _turn(rng, (0, 8, 0)))
    left = ellipsoid(_around(rng, (8, -76, 52), 4), _sized(rng, (62, 34, 32), 0.1), _turn(rng, (10, 12, -6)))
    body = union(right, lower, left, blend_mm=16)
    hollow = union(
        ellipsoid((20, 10, 30), (44, 46, 95), (0, 0, 0)),
        ellipsoid((-56, 34, -20), (36, 33, 58)),
        ellipsoid((-32, -42, -22), (22, 40, 30)),
        blend_mm=12,
    )
    liver = difference(intersection(body, cavity), hollow).roughened(rough, 1.6)
    liver = liver.within((-150, -140, -70), (85, 75, 160))
    fissure = intersection(ellipsoid((-18, -84, 34), (2.2, 34, 30), (10, 0, 12)), liver)
    hepatic = union(
        *(
            tube([(-28, -14, 92), _around(rng, middle, 6), _around(rng, end, 8)], [6, 4.2, 1.5])
            for middle, end in (
                ((-66, -6, 78), (-108, 6, 48)),
                ((-46, -42, 76), (-74, -80, 44)),
                ((-10, -46, 78), (22, -82, 58)),
            )
        )
    )
    portal = union(
        tube([(-18, -32, 17), (-34, -34, 32), (-50, -34, 40)], [6.8, 6.2, 5.5]),
        tube([(-50, -34, 40), (-84, -26, 36), (-112, -22, 18)], [5.5, 4, 1.6]),
        tube([(-84, -26, 36), (-98, -10, 62)], [3.6, 1.4]),
        tube([(-40, -36, 36), (-26, -60, 48), (4, -80, 56), (34, -84, 58)], [5, 4, 2.8, 1.3]),
        tube([(-66, -32, 38), (-78, -68, 26)], [3.8, 1.4]),
    )
    value = _VALUE["liver"]
    inside = intersection(union(hepatic, portal), liver)
    return [
        part(liver.grown(_FAT_PLANE_MM), "visceral_fat"),
        part(liver, "liver", value),
        part(fissure, "visceral_fat"),
        part(portal, "blood_slow"),
        part(inside, "blood_slow", value),
    ]


def _spleen(rng: np.random.Generator, domes: Shape, rough: SmoothField) -> list[Part]:
    centre = _around(rng, (85, 20, 46), 3)
    body = ellipsoid(centre, _sized(rng, (37, 50, 54), 0.08), _turn(rng, (18, 0, -22)))
    notch = ellipsoid((centre[0] - 40, centre[1] - 16, centre[2] + 2), (33, 42, 60), (0, 0, -20))
    spleen = difference(intersection(body, _torso(-14), domes.grown(-2)), notch).roughened(rough, 1.3)
    return [part(spleen.grown(_FAT_PLANE_MM), "visceral_fat"), part(spleen, "spleen", _VALUE["spleen"])]


def _kidney(rng: np.random.Generator, name: str, rough: SmoothField) -> list[Part]:
    side = 1.0 if name.startswith("left") else -1.0
    centre = _around(rng, (side * 57, 30, -4 if side > 0 else -20), 3)
    turn = _turn(rng, (10, side * -12, side * 38), 5)
    body = ellipsoid(centre, _sized(rng, (28, 23, 54), 0.07), turn)
    hilum = (centre[0] - side * 19, centre[1] - 13, centre[2])
    sinus = union(ellipsoid(hilum, (16, 9, 21), turn), ellipsoid(centre, (7, 5, 26), turn), blend_mm=5)
    kidney = body.roughened(rough, 0.8)
    pyramids = intersection(body.grown(-7.5), noise_solid(smooth_field(rng, 10), -0.1, 7.0))
    pelvis = ellipsoid((hilum[0], hilum[1] + 3, hilum[2] - 3), (9, 4, 8), turn)
    value = _VALUE[name]
    return [
        part(body.grown(9), "visceral_fat"),
        part(kidney, "kidney_cortex", value),
        part(pyramids, "kidney_medulla", value),
        part(sinus, "visceral_fat"),
        part(pelvis, "gut_fluid"),
    ]


def _stomach(rng: np.random.Generator, rough: SmoothField) -> list[Part]:
    fill = float(np.exp(np.clip(rng.normal(0, 0.12), -0.22, 0.22)))
    points = [(46, -6, 76), (54, -32, 58), (56, -64, 30), (34, -82, 2), (2, -72, -8), (-20, -56, 0)]
    radii = np.array([29, 33, 28, 22, 17, 10]) * fill
    stomach = tube([_around(rng, p, 3) for p in points], list(radii)).roughened(rough, 2.2)
    wall = float(rng.uniform(3.6, 5.0))
    lumen = stomach.grown(-wall).roughened(smooth_field(rng, 9), 0.9)
    level = float(rng.uniform(-66, -40))
    gas = intersection(lumen, half_space((0, 1, 0), level))
    content = str(rng.choice(("gut_fluid", "chyme")))
    lumps = intersection(lumen, noise_solid(smooth_field(rng, 12), 1.0, 8.0))
    value = _VALUE["stomach"]
    return [
        part(stomach.grown(_FAT_PLANE_MM), "visceral_fat"),
        part(stomach, "gut_wall", value),
        part(lumen, content, value),
        part(lumps, "chyme", value),
        part(gas, "air", value),
    ]


def _gallbladder(rng: np.random.Generator) -> list[Part]:
    size = float(np.exp(np.clip(rng.normal(0, 0.15), -0.3, 0.3)))
    neck, body, fundus = (_around(rng, p, 2) for p in ((-36, -38, 16), (-46, -62, 2), (-52, -84, -12)))
    bladder = tube([neck, body, fundus], [5 * size, 11 * size, 15 * size])
    return [
        part(bladder.grown(1.5), "visceral_fat"),
        part(bladder, "gallbladder_wall", _VALUE["gallbladder"]),
        part(bladder.grown(-1.6), "bile", _VALUE["gallbladder"]),
    ]


def _pancreas(rng: np.random.Generator) -> list[Part]:
    points = [(-24, -26, -24), (-22, -32, -2), (-4, -44, 8), (22, -40, 16), (50, -16, 28), (78, 6, 40)]
    size = float(np.exp(np.clip(rng.normal(0, 0.08), -0.16, 0.16)))
    radii = np.array([12.5, 15, 10, 11, 11.5, 9.5]) * size
    gland = tube([_around(rng, p, 2.5) for p in points], list(radii))
    lobes = gland.roughened(smooth_field(rng, 7), 1.8)
    clefts = noise_solid(smooth_field(rng, 6), float(rng.uniform(1.4, 2.0)), 5.0)
    duct = tube([(p[0], p[1], p[2]) for p in points[1:]], 1.1)
    value = _VALUE["pancreas"]
    return [
        part(gland.grown(3), "visceral_fat"),
        part(lobes, "pancreas", value),
        part(intersection(lobes.grown(-1.0), clefts), "visceral_fat", value),
        part(duct, "gut_fluid", value),
    ]


def _small_organs(rng: np.random.Generator, rough: SmoothField) -> list[Part]:
    """Duodenum, adrenals, oesophagus."""
    path = [(-22, -54, 0), (-44, -40, 2), (-46, -24, -30), (-30, -10, -48), (10, -14, -46), (30, -30, -40)]
    duodenum = tube([_around(rng, p, 2) for p in path], 11).roughened(rough, 1.2)
    adrenals = union(
        tube([(-30, 10, 52), (-36, 22, 46)], 3),
        tube([(34, 4, 40), (42, 18, 40)], 3.2),
        tube([(34, 4, 40), (30, 18, 42)], 3),
    )
    return [
        part(duodenum, "gut_wall"),
        part(duodenum.grown(-3), "gut_fluid" if rng.random() < 0.5 else "chyme"),
        part(adrenals, "adrenal"),
        part(tube([(14, -8, 150), (20, -12, 84)], 8), "gut_wall"),
    ]


def abdomen(rng: np.random.Generator) -> Anatomy:
    """Draw one upper abdomen; the labels are WORD's seven organs in its order (`ORGANS`)."""
    fat = float(rng.uniform(8, 26))
    height = float(rng.uniform(78, 96))
    domes, chest = _diaphragm(rng, height)
    rough = smooth_field(rng, 24)
    groups = (
        _wall(rng, fat),
        chest,
        _back(rng),
        _bowel(rng),
        _kidney(rng, "left kidney", rough),
        _kidney(rng, "right kidney", rough),
        _spleen(rng, domes, rough),
        _stomach(rng, rough),
        _liver(rng, domes, rough),
        _small_organs(rng, rough),
        _vessels(rng),
        _pancreas(rng),
        _gallbladder(rng),
    )
    warp = random_warp(
        rng,
        rotation_deg=3.0,
        shift_mm=4.0,
        scale=0.035,
        length_mm=60,
        amplitude_mm=3.2,
    )
    # The grid's middle lies at the height of the pancreas, halfway between breast and back.
    warp = type(warp)(warp.matrix, tuple(np.add(warp.shift, (0, _BODY[1], 8)).tolist()), warp.fields, warp.amplitude_mm)
    return Anatomy(tuple(p for group in groups for p in group), warp, LabelTable.from_names(ORGANS))
