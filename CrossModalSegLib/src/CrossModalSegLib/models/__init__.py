"""Segmentation networks: CmFNet, its V-Net branches and the compared networks."""
