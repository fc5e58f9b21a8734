"""Data sets on disk, each read into an iterator of samples."""
