"""The worked examples and how they are printed."""
