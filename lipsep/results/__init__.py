"""What a run leaves behind: voices, report, overview."""
