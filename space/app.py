"""`lipsep web` on a machine of the Hugging Face hub: it listens for everyone, under the name that the hub gives it."""

from __future__ import annotations

import os

from lipsep.commands.web import web

if __name__ == "__main__":
    name = os.environ.get("SPACE_HOST")  # as in owner-name.hf.space
    web(host="0.0.0.0", port=7860, host_name=[name] if name else None, max_mb=100.0, max_minutes=3.0)
