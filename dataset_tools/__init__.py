"""Label formats to checked COCO: converters, checks, splits. Needs neither torch nor detectron2."""

__version__ = "0.1.0"
