"""Finding the kernels of layers, reading them as matrices and cutting blocks."""
