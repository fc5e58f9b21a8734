"""Groups of settings that several stages share."""
