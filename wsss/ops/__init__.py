"""Pure functions of tensors: CAMs, seeds, random walks, refinement, evaluation counts."""
