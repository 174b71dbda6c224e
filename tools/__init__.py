"""What serves the development of Seriatim and is not part of the package.

This file has to be: upstream Detectron2 installs a package `tools` of its own, which would
otherwise be found in its place.
"""
