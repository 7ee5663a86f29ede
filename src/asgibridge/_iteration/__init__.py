"""Iterators and context managers across the bridge, beneath `asgibridge.iterators`."""
