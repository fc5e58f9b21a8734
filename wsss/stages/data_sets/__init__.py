"""The settings of every data set on disk, and how each is opened."""
