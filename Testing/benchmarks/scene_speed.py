"""Speed of what happens in 3D Slicer's own thread: scribbles read, results written, previews and counts.

    python Testing/benchmarks/scene_speed.py                      # 300 x 512 x 512, the full size
    python Testing/benchmarks/scene_speed.py --size 40 128 128

Needs slicer-core. Prints seconds, the best of a few repeats; targets: scribbles read and a result written back in at
most 1 s together, and a live preview or a count of scribbles within 50 ms.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from vtkmodules.vtkCommonDataModel import vtkImageData

from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.geometry import to_vtk
from CrossModalSegLib.scene.headless import HeadlessScene
from CrossModalSegLib.scene.images import filled
from CrossModalSegLib.scene.preview import Preview
from CrossModalSegLib.scene.scribbles import add_auto_background, count_scribbles, prepare_scribbles, read_scribbles
from CrossModalSegLib.scene.segmentations import read_mask, write_segmentation
from CrossModalSegLib.scene.volumes import read_grid, read_volume

ROUND_TRIP_S, THREAD_S = 1.0, 0.05
TABLE = LabelTable.from_names(["liver", "spleen", "left kidney", "right kidney"])


def best(what: str, function: Callable[[], object], repeats: int, target: float | None = None) -> float:
    """Prints and returns the shortest time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    aim = "" if target is None else f" (target <= {target:g} s)"
    print(f"{what}: {min(times):.3f} s{aim}")
    return min(times)


def add_volume(scene: object, shape: tuple[int, int, int]) -> object:
    """An image of noise, anisotropic and turned, under a transform."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "image")
    array = np.random.default_rng(0).integers(-1000, 1000, shape, dtype=np.int16)
    node.SetAndObserveImageData(filled(vtkImageData(), array))
    turn = np.array([[0.8, -0.6, 0.0, 10], [0.6, 0.8, 0.0, 20], [0.0, 0.0, 1.0, 30], [0, 0, 0, 1]])
    node.SetIJKToRASMatrix(to_vtk(turn @ np.diag([0.7, 0.7, 1.5, 1])))
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "move")
    transform.SetMatrixTransformToParent(to_vtk(turn))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return node


def drawn_slices(shape: tuple[int, int, int]) -> np.ndarray:
    """Lines on every fifth slice, about as much as a person draws."""
    mask = np.zeros(shape, np.uint8)
    rows, columns = slice(shape[1] // 2, shape[1] // 2 + 3), slice(shape[2] // 4, shape[2] // 2)
    mask[::5, rows, columns] = 1
    return mask


def organs(shape: tuple[int, int, int]) -> np.ndarray:
    """Four boxes that fill an eighth of the volume."""
    array = np.zeros(shape, np.uint8)
    k, j, i = (n // 4 for n in shape)
    array[k : 3 * k, j : 3 * j, i : 3 * i] = 1
    array[k : 2 * k, j : 2 * j, i : 2 * i] = 2
    array[2 * k : 3 * k, j : 2 * j, i : 2 * i] = 3
    array[k : 2 * k, 2 * j : 3 * j, i : 2 * i] = 4
    return array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(300, 512, 512), help="k j i")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    shape, repeats = tuple(arguments.size), arguments.repeats
    headless = HeadlessScene()
    scene = headless.scene
    image = add_volume(scene, shape)
    print(f"volume of {shape}, {len(TABLE)} classes")

    scribbles = prepare_scribbles(scene, image, TABLE)
    add_auto_background(scribbles, image, TABLE, read_grid(image).with_array(drawn_slices(shape)))
    labels = read_grid(image).with_array(organs(shape))
    result = write_segmentation(scene, labels, TABLE, image, "Result")

    best("image copied out", lambda: read_volume(image), repeats)
    read = best("scribbles read", lambda: read_scribbles(scribbles, image, TABLE), repeats)
    new = best("new result written", lambda: write_segmentation(scene, labels, TABLE, image, "New"), repeats)
    again = best(
        "result written over the last", lambda: write_segmentation(scene, labels, TABLE, image, "", result), repeats
    )
    worst = read + max(new, again)
    print(f"scribbles read and result written: {worst:.3f} s (target <= {ROUND_TRIP_S:g} s)")
    best("mask read", lambda: read_mask(result, image, TABLE), repeats)
    best("scribbles counted", lambda: count_scribbles(scribbles, image, TABLE), repeats, THREAD_S)
    preview = Preview(scene, TABLE, image, "Preview")
    best("first preview", lambda: preview.show(labels), 1)
    best("next preview", lambda: preview.show(labels), repeats, THREAD_S)


if __name__ == "__main__":
    main()
