"""Files that are written whole or not at all: those of a run, and those that a user names."""
