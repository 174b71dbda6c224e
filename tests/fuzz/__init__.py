"""Labels broken in every way that we could think of, given to every reader.

`python -m tests.fuzz --cases 1000` tries many; continuous integration tries a few
(`test_fuzz.py`). A case is a small dataset of one format (`fixtures`), to which some damage is done
(`damage`), converted with `--on-error` stop or skip. What must hold is in `trial`.
"""
