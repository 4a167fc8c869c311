"""Fixed mixtures: manifests, lists and finished folders."""
