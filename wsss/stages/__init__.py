"""The stages: one file each, a frozen dataclass of settings with what it reads, writes and does."""
