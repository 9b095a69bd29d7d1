"""Segmentation of CT and MR volumes from a few scribbles."""

__version__ = "0.1.0"
