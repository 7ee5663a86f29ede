"""What `asgibridge.queue` has beside message queues: broadcasts, channels, waits for several."""
