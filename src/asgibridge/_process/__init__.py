"""What belongs to the process: its threads, its exit, its forks, and the interpreter beneath."""
