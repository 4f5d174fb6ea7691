"""What stands behind a host's features: heads, the long-range part, its sign, its physical results."""
