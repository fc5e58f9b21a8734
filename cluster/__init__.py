"""Execution: runtimes (local and Ray), the training engine, checkpoints and experiment tracking."""
