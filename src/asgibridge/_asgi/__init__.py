"""The rules of the ASGI specification, beneath `asgibridge.typing`."""
