"""Worked examples, and how they are printed."""
