"""`wsss doctor`: what this machine has for running recipes, what is missing, and the command that mends it."""
