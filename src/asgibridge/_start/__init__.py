"""How asgibridge comes into a process: `install`, and the command line."""
