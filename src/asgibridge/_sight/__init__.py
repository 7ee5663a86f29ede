"""What a dump looks at, beneath `asgibridge.debug`."""
