"""Every key that a recipe may have, read off the classes that check it: type, default, and the sentence beside it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic_core import PydanticUndefined

from lipsep.data.mixing.mixing import MixingConfig
from lipsep.data.mixing.mouth_augmentation import MouthConfig
from lipsep.data.settings import Strict
from lipsep.training.recipe import Recipe

_DICTIONARIES = {"data.mixing": MixingConfig, "data.mixing.mouths": MouthConfig}
"""Parts that a recipe keeps as plain mappings -> the class that takes them."""


@dataclass(frozen=True)
class Key:
    """One key of a recipe, as `lipsep train RECIPE NAME=VALUE` takes it."""

    name: str
    kind: str
    default: str | None  # None: must be given
    meaning: str


def recipe_keys() -> list[Key]:
    """All keys in the order of the classes, parts before what they hold."""
    keys = list(_keys_of(Recipe, ""))
    for prefix, kind in _DICTIONARIES.items():
        last = max(number for number, key in enumerate(keys) if _part_of(key.name) == _part_of(prefix))
        keys[last + 1 : last + 1] = _keys_of(kind, f"{prefix}.")
    return keys


def as_markdown() -> str:
    """The keys as a page with one table for each part."""
    lines = [
        "# Recipe keys",
        "",
        "Made from the classes that check recipes. `lipsep train RECIPE KEY=VALUE` changes any of them; "
        "`model.overrides` takes every field of the model's configuration, see its file in `lipsep/models/`.",
    ]
    part = None
    for key in recipe_keys():
        if _part_of(key.name) != part:
            part = _part_of(key.name)
            lines += ["", f"## {part or 'the recipe itself'}", ""]
            lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        cells = (f"`{key.name}`", f"`{key.kind}`", "needed" if key.default is None else f"`{key.default}`", key.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _part_of(name: str) -> str:
    return name.rpartition(".")[0]


def _keys_of(kind: type, prefix: str) -> Iterator[Key]:
    notes, fields = _notes(kind), _fields(kind)
    for name, (annotation, default) in fields.items():
        yield Key(f"{prefix}{name}", annotation, default, notes.get(name, ""))
    for name in fields:
        for part in _parts_in(kind, name):
            yield from _keys_of(part, f"{prefix}{name}.")


def _fields(kind: type) -> dict[str, tuple[str, str | None]]:
    """Name -> annotation as it is written, and default as YAML would show it."""
    written = {name: text for each in reversed(kind.__mro__) for name, text in inspect.get_annotations(each).items()}
    if issubclass(kind, Strict):
        found = {
            name: None if field.is_required() else _shown(field.get_default(call_default_factory=True))
            for name, field in kind.model_fields.items()
        }
    else:
        assert dataclasses.is_dataclass(kind)
        found = {field.name: _shown(_default_of(field)) for field in dataclasses.fields(kind)}
    return {name: (str(written[name]), default) for name, default in found.items()}


def _default_of(field: dataclasses.Field) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _parts_in(kind: type, name: str) -> list[type]:
    """The classes of settings that a field's type names: of `LipCoderPart | None` the first."""
    if not issubclass(kind, Strict):
        return []
    annotation = kind.model_fields[name].annotation
    options = getattr(annotation, "__args__", (annotation,))
    return [option for option in options if isinstance(option, type) and issubclass(option, Strict)]


def _shown(default: object) -> str | None:
    if default is PydanticUndefined or default is dataclasses.MISSING:
        return None
    if isinstance(default, bool):
        return str(default).lower()
    if default is None:
        return "null"
    if isinstance(default, Strict) or dataclasses.is_dataclass(default):
        return "as below"
    return str(list(default)) if isinstance(default, tuple) else str(default)


def _notes(kind: type) -> dict[str, str]:
    """Name -> the comment at the end of a field's line, or the string below it; of base classes too."""
    notes: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.startswith("lipsep."):
            notes |= _notes_in(textwrap.dedent(inspect.getsource(each)))
    return notes


def _notes_in(source: str) -> dict[str, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    notes, last = {}, None
    (described,) = ast.parse(source).body
    assert isinstance(described, ast.ClassDef)
    for node in described.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.target.id
            if node.end_lineno in comments:
                notes[last] = comments[node.end_lineno]
        elif last and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            notes[last] = " ".join(str(node.value.value).split())
        else:
            last = None
    return notes
