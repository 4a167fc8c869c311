"""Data: corpora on disk -> talking clips -> mixtures -> batches."""
