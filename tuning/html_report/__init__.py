"""`wsss report`: results as one HTML file that needs neither a network nor other files."""
