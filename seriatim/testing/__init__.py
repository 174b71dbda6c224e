"""Small drawn data for tests and demonstrations. Imports neither torch nor detectron2."""
