"""The machine: temporary files, whole files, memory, clusters."""
