"""The two versions there are to tell apart."""

__version__ = "0.1.0"

ASGIREF_VERSION = "3.13.0"
"""The release of asgiref whose modules, names and behaviour this package answers for."""
