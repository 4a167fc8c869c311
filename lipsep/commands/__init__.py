"""Commands beside `separate`, one file each; `cli` registers them. What they share is in `commands.terminal`."""
