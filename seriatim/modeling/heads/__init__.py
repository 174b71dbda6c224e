"""Heads of meta-architectures."""
