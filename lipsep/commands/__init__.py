"""Commands beside `separate`, one file each; `lipsep.cli` registers them. What they share is in `lipsep.terminal`."""
