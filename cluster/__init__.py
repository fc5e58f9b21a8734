"""Where does it run? Runtimes, the training engine, checkpoints and tracking."""
