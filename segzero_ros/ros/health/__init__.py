"""What the perception node reports about itself: diagnostics, status, memory, its server."""
