"""Layers that video encoders and models share; they know of neither."""
