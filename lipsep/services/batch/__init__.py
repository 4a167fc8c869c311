"""Many files: finding them, separating them in processes of their own, and keeping count."""
