"""The ranks of a training under Ray Train: where they start, what is lost, what is reported."""
