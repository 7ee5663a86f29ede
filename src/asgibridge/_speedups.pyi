# The compiled kernel has what the pure one has; tests/kernel/test_parity.py compares the two.
from asgibridge._pure import *  # noqa: F403
