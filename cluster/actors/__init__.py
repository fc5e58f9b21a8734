"""The pool of Ray actors that work on shards."""
