"""Using trained networks: prediction within the memory there is, model folders, MONAI bundles."""
