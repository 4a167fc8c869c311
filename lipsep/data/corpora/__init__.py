"""Corpora on disk: their layouts, what preparing makes of them, how a run opens them."""
