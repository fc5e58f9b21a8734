"""The published settings and scores of the systems that the recipes NAME_voc.toml reproduce, and what differs."""
