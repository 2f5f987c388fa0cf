"""The ground floor: how kernels are found in layers, read as matrices and cut."""
