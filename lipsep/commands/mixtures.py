"""`lipsep mixtures`: a list of mixtures of a corpus, drawn or published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.system.outputs import writing_to


def mixtures(
    corpus: Annotated[
        str, typer.Argument(help="folder, grid, lombard_grid, crema_d, lrs2, lrs3, vox2, tcd_timit or ntcd_timit.")
    ],
    root: Annotated[Path, typer.Argument(help="Where the corpus lies as it is published.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="A manifest, .jsonl or .parquet; .txt: names alone, as papers publish.")
    ],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many mixtures.")] = 3000,
    speakers: Annotated[int, typer.Option(min=2, max=4, help="Voices in each.")] = 2,
    protocol: Annotated[str, typer.Option(help="look2hear: gains of -5 to 5 dB; usev: -10 to 10 dB.")] = "look2hear",
    split: Annotated[str, typer.Option(help="train, val, test, pretrain, or all where the corpus has none.")] = "test",
    names: Annotated[
        Path | None,
        typer.Option(help="A published list, names or lines of an .scp file, in place of drawing.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives another list.")] = 0,
) -> None:
    """Draw mixtures of different talkers of a corpus, named as in the published lists; for 'lipsep evaluate --data'."""
    from lipsep.data.corpora.layouts import find_sources
    from lipsep.data.mixtures.lists import draw_list, read_list, write_names
    from lipsep.data.mixtures.manifest import write_manifest

    sources = find_sources(corpus, root)
    if names is None:
        rows = draw_list(sources, root, split, speakers, number, protocol, seed)
        made = f"of {speakers} voices, protocol {protocol}, seed {seed}"
    else:
        rows = read_list(names, sources, root)
        made = f"of '{names}'"
    with writing_to(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        (write_names if out.suffix == ".txt" else write_manifest)(out, rows)
    typer.echo(f"{len(rows)} mixtures {made}: '{out}'")
