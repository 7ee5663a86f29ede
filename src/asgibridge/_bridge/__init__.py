"""What the two bridges of `asgibridge.sync` are made of."""
