"""What mouths do: tracks and frames in, mouth pictures by a recipe out."""
