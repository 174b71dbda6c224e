"""Label formats to checked COCO: converters, checks, splits. Needs neither torch nor detectron2."""
