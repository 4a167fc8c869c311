"""Files in and out: the one place that knows about containers."""
