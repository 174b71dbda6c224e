"""The commands of visualize.py, one a module."""
