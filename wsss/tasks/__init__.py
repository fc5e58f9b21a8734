"""Training objectives: a network and its losses, one task each."""
