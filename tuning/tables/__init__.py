"""Tables of measured results in README.md and tuning/README.md: declared, stored and written by `make tables`."""
