"""The rules that a dataset is held against: over the JSON, over the image files, over
look-alikes."""
