"""Experiments whose results stand in the docs, each with the command that made them."""
