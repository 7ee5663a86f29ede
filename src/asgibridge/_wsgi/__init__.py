"""The two WSGI adapters, beneath `asgibridge.wsgi`."""
