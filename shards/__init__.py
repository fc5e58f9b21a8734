"""What do we read? Records, shards and layers; no torch here."""
