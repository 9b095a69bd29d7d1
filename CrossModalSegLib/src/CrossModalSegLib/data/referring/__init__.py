"""Pairs of a scribbled reference slice and a target slice: slices of a volume, their pairing, changes, and draws."""
