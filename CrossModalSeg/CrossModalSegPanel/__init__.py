"""What the module of 3D Slicer is made of; a folder of its own, since Slicer takes each file beside it for a module."""
