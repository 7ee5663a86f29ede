"""ASGI's own side, beneath `asgibridge.typing` and `asgibridge.testing`: rules, conversations."""
