"""Why a process died, as far as it can be known."""
