"""The training objectives of segmenters: one file each, with settings, checks, task and training set."""
