"""The page of `crossmodalseg web`: CrossModalSeg in a browser, on 3D Slicer's own rendering and segments.

`front` is what the browser talks to. It gives each browser a process of its own (`page`), so that nobody sees another
one's data, and a private folder that goes with it.
"""
