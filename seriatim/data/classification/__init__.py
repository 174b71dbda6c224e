"""Images that have a label as a whole: datasets, storage, augmentation, draws, statistics."""
