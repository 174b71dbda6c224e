"""Detectron2 0.6 as an installable, pure-Python wheel for today's PyTorch, NumPy and Pillow.

`python -m tools.detectron2` fetches the hash-pinned sources (source.py), mends them (mends.py),
adds a Python replacement of the compiled extension (replacement/_C) and installs the wheel
(wheel.py, install.py). A Detectron2 that can be imported already is left alone.
"""
