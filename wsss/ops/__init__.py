"""Pure functions of tensors: CAMs, seeds, walks, refinement, counts."""
