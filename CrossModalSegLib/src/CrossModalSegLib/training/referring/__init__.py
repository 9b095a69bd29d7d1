"""Training of CrossMR, of its ablations, and of the 2D U-Net it is compared with."""
