"""Deep-learning code in the order in which it should be written, on top of Detectron2.

Importing the package is cheap: neither torch nor detectron2 is imported until a submodule needs it.
"""

__version__ = "0.1.0"
