"""What `make docs` adds to the pages in docs/: those that lie elsewhere in the repository, and those made from code.

A hook of MkDocs (mkdocs.yml). Links to files that are not pages of the site become plain names.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

from lipsep.cli import app
from lipsep.training.schema import as_markdown

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "index.md": "README.md",
    "weights.md": "MODELS.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "recipes/bin.md": "recipes/bin/BIN.md",
    "recipes/dp_lipcoder.md": "recipes/laptop/DP_LIPCODER.md",
}
"""Page of the site -> file of the repository."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?!https?://|mailto:|#)[^)\s]+)\)")


def command_line() -> str:
    """Every command with its help, as a terminal shows it."""
    group = typer.main.get_command(app)
    parts = ["# Command line", _help(group, "lipsep")]
    for name, command in sorted(group.commands.items()):
        parts += [f"## lipsep {name}", _help(command, f"lipsep {name}")]
        for inner, nested in sorted(getattr(command, "commands", {}).items()):
            parts += [f"### lipsep {name} {inner}", _help(nested, f"lipsep {name} {inner}")]
    parts += [
        "## Exit codes",
        "| code | meaning |\n|---|---|\n| 0 | done |\n| 1 | refused, or failed for a reason that is told |\n"
        "| 2 | wrong usage, or a defect (`--debug` shows the traceback) |\n| 130, 143 | stopped: Ctrl-C, SIGTERM |",
    ]
    return "\n\n".join(parts) + "\n"


def http_routes() -> str:
    """The routes of `lipsep serve`, from its own description."""
    from tempfile import TemporaryDirectory

    from lipsep.services.http.app import create_app

    with TemporaryDirectory() as folder:
        server = create_app(Path(folder))
        described = server.openapi()
        server.state.close()
    parts = ["# HTTP", "`lipsep serve` describes itself at `/openapi.json`. Set `LIPSEP_TOKEN` to ask for a token."]
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            codes = ", ".join(sorted(route["responses"]))
            parts += [f"## {method.upper()} {path}", route.get("description") or route["summary"], f"Answers: {codes}."]
    return "\n\n".join(parts) + "\n"


PYTHON = """# Python

::: lipsep.separator.Separator
::: lipsep.separator.SeparationResult
::: lipsep.separation.options.Options
::: lipsep.checkpoints.folder.load_model
::: lipsep.checkpoints.folder.save_model
::: lipsep.checkpoints.sharing.push_to_hub
::: lipsep.models.registry
::: lipsep.models.base.SeparationModel
::: lipsep.encoders.base.VideoEncoder
::: lipsep.training.train
::: lipsep.errors
"""


def on_files(files: Files, config: Any, **_: Any) -> Files:
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    made = {"python": PYTHON, "cli": command_line(), "http": http_routes(), "recipe_keys": as_markdown()}
    for name, content in made.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    files.append(File.generated(config, "assets/demo.mp4", abs_src_path=str(ROOT / "lipsep" / "assets" / "demo.mp4")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links as they are written for the repository -> links between pages of the site."""
    here = ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {source: name for name, source in ELSEWHERE.items()}
    pages |= {"lipsep/assets/demo.mp4": "assets/demo.mp4"}
    pages |= {f"docs/{file.src_uri}": file.src_uri for file in files if file.src_uri not in ELSEWHERE}

    def between_pages(link: re.Match[str]) -> str:
        target, hash_, anchor = link[3].partition("#")
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        if meant not in pages:
            return f"{link[2]} (`{meant}`)"
        relative = posixpath.relpath(pages[meant], posixpath.dirname(page.file.src_uri) or ".")
        return f"{link[1]}[{link[2]}]({relative}{hash_}{anchor})"

    return _LINK.sub(between_pages, markdown)


def _help(command: Any, name: str) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    return f"```text\n{command.get_help(context).strip()}\n```"
