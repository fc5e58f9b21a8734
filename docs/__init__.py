"""The documentation's site: `make docs` builds it. The pages themselves stand beside the code that they describe."""
