"""Make the README's relative links absolute and name the repository in pyproject.toml, for a distribution on PyPI.

    python scripts/release_links.py https://github.com/OWNER/lipsep v0.2.0

The release workflow runs it before it builds; nothing of it is committed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = (".png", ".gif", ".svg", ".jpg")
SOUNDS = (".wav", ".flac", ".mp4")
_LINK = re.compile(r"(?<=\]\()(?!https?://|#|mailto:)([^)\s]+)(?=\))")


def absolute_links(markdown: str, repository: str, tag: str) -> str:
    """Pictures and sounds as raw files of the tag, everything else as its page; links that are absolute stay."""

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link[1].endswith((*PICTURES, *SOUNDS)) else "blob"
        return f"{repository}/{kind}/{tag}/{link[1]}"

    return _LINK.sub(absolute, markdown)


def with_urls(pyproject: str, repository: str) -> str:
    """The table of addresses, with those that only the host of a repository knows."""
    urls = {"Source": repository, "Issues": f"{repository}/issues", "Changelog": f"{repository}/blob/main/CHANGELOG.md"}
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return pyproject.replace("[project.urls]\n", f"[project.urls]\n{lines}", 1)


if __name__ == "__main__":
    given_repository, given_tag = sys.argv[1].rstrip("/"), sys.argv[2]
    readme, pyproject = ROOT / "README.md", ROOT / "pyproject.toml"
    readme.write_text(absolute_links(readme.read_text(encoding="utf-8"), given_repository, given_tag), encoding="utf-8")
    pyproject.write_text(with_urls(pyproject.read_text(encoding="utf-8"), given_repository), encoding="utf-8")
