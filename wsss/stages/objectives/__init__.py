"""What a segmenter is trained towards: one file each, with its settings, checks, task and training set."""
