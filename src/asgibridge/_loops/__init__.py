"""The event loops that top-level calls run on."""
