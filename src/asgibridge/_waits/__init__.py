"""Who waits for whom: read by the proof of deadlocks, and by a dump."""
