"""What the applications share: progress, resuming, strategies."""
