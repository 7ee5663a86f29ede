"""The rules of ASGI messages, beneath `asgibridge.typing` and `asgibridge.testing`."""
