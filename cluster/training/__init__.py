"""One training rank: DeepSpeed around a task, its batches and its checkpoints."""
