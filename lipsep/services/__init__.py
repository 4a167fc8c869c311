"""Separation for others: worker processes, batches, HTTP, the page."""
