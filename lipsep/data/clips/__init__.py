"""Clips of single talkers: voice and mouth, in memory or on disk."""
