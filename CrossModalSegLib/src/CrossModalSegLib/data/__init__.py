"""From loaded cases to what a network trains on: preprocessing, patches around labelled voxels, augmentation."""
