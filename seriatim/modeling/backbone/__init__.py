"""Backbones on timm, and their necks."""
