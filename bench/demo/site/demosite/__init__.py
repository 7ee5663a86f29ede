"""A small notice board on Django and Channels, written for asgiref.

It does not know that asgibridge exists: what serves it is decided by the command that starts it,
never by the site.
"""
