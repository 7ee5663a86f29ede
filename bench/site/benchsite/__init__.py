"""A small Django site with nothing slow in it: what is left of a request is mostly the bridge."""
