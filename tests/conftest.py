"""What holds for every test."""

from hypothesis import settings

# The same examples in every run; no limit of time, for a busy machine is no fault of the code.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
