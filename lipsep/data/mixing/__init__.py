"""Mixtures drawn anew for every step."""
