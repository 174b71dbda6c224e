"""Datasets by config, mappers, augmentations and loaders."""
