"""Weights: folders, the hub, downloads, and where a model begins."""
