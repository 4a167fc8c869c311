"""`lipsep plot`: the figures of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.errors import MediaError
from lipsep.services.opening import open_separator

plot = typer.Typer(help="Draw the figures of the papers, each as PDF and PNG.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("-o", "--out", help="Name without suffix; OUT.pdf and OUT.png are written.")]


@plot.command()
def spectrograms(
    sounds: Annotated[list[Path], typer.Argument(metavar="MIXTURE REFERENCE ESTIMATE...", help="Sound files.")],
    title: Annotated[list[str] | None, typer.Option(help="One per file, in order; default: names.")] = None,
    out: Out = Path("spectrograms"),
) -> None:
    """Mixture, reference and estimates side by side, all on one scale (Dolphin, appendix H)."""
    from lipsep.media.reading import load_audio
    from lipsep.plots.spectrograms import draw_spectrograms

    titles = title or [f"{path.parent.name}/{path.stem}" for path in sounds]
    if len(titles) != len(sounds) or len(set(titles)) != len(titles):
        raise MediaError(f"{len(sounds)} sounds and the titles {', '.join(titles)}: give each a --title of its own")
    _say(draw_spectrograms({t: load_audio(path) for t, path in zip(titles, sounds, strict=True)}, out))


@plot.command()
def lips(
    strips: Annotated[
        list[Path], typer.Argument(metavar="ORIGINAL RECONSTRUCTION...", help=".npz (data) or .npy files, (F, H, W).")
    ],
    out: Out = Path("lips"),
) -> None:
    """Lip pictures above their reconstructions (Dolphin, Fig. 8)."""
    from lipsep.plots.lips import draw_lip_strips, read_strip

    _say(draw_lip_strips({path.stem: read_strip(path) for path in strips}, out))


@plot.command()
def curves(
    table: Annotated[Path, typer.Argument(help="CSV with a column iteration, epoch or step, such as metrics.csv.")],
    column: Annotated[list[str] | None, typer.Option(help="What to draw; may be repeated; default: all.")] = None,
    label: Annotated[str, typer.Option(help="Of the vertical axis.")] = "loss",
    log: Annotated[bool, typer.Option("--log", help="Logarithmic vertical axis.")] = False,
    out: Out = Path("curves"),
) -> None:
    """Loss over training (Dolphin, Fig. 7), or quality over iterations (BIN, Fig. 3)."""
    from lipsep.plots.curves import draw_curves, read_curves

    x_name, points = read_curves(table, column or ())
    _say(draw_curves(points, x_name, label, out, log))


@plot.command()
def heat(out: Out = Path("heat")) -> None:
    """Heat diffusion against Gaussian convolution, on tones and an impulse (Dolphin, Fig. 5)."""
    from lipsep.plots.heat import draw_heat

    _say(draw_heat(out))


@plot.command()
def masks(
    model: Annotated[str, typer.Argument(help="Name, folder or hub id of weights.")],
    data: Annotated[Path, typer.Option(help="Manifest of mixtures, or a folder with mix/, s1/, s2/, mouths/.")],
    root: Annotated[Path, typer.Option(help="Folder that the manifest's paths are relative to.")] = Path("."),
    mixture: Annotated[int, typer.Option(min=0, help="Which mixture, from 0.")] = 0,
    out: Out = Path("masks"),
) -> None:
    """The masks that a model lays over a mixture, one panel per person (BIN, Fig. 2)."""
    import tempfile

    from lipsep.constants import SAMPLE_RATE
    from lipsep.evaluation.cases import open_cases
    from lipsep.plots.masks import draw_masks, masks_of

    network = open_separator(model, "cpu", None).model
    with tempfile.TemporaryDirectory() as cache:
        cases = open_cases(data, root, network.lip_recipe, Path(cache), slice(mixture, mixture + 1))
        for what in cases.preparations():
            cases.prepare(what)
        case = cases.load(0)
        found = masks_of(network, case)
    _say(draw_masks(found, out, len(case.mixture) / SAMPLE_RATE))


@plot.command()
def iterations(
    model: Annotated[str, typer.Argument(help="Name, folder or hub id of weights that iterate, such as a BIN.")],
    data: Annotated[Path, typer.Option(help="Manifest of mixtures, or a folder with mix/, s1/, s2/, mouths/.")],
    root: Annotated[Path, typer.Option(help="Folder that the manifest's paths are relative to.")] = Path("."),
    at: Annotated[list[int] | None, typer.Option(min=1, help="A number of iterations; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N mixtures.")] = None,
    out: Out = Path("iterations"),
) -> None:
    """Quality over iterations (BIN, Fig. 3), and the first mixture's masks as they evolve, above the clean voices
    (OUT_masks; Fig. 2)."""
    import tempfile

    from lipsep.evaluation.cases import open_cases
    from lipsep.plots import iterations as figures
    from lipsep.plots.curves import draw_curves, read_curves

    network = open_separator(model, "cpu", None).model
    numbers = figures.numbers_to_try(network, at or ())
    with tempfile.TemporaryDirectory() as cache:
        cases = open_cases(data, root, network.lip_recipe, Path(cache), slice(limit))
        for what in cases.preparations():
            cases.prepare(what)
        quality = figures.quality_over_iterations(network, (cases.load(k) for k in range(len(cases.names))), numbers)
        first = cases.load(0)
    table = figures.write_quality(quality, out.with_name(f"{out.name}.csv"))
    x_name, points = read_curves(table)
    masks = figures.masks_over_iterations(network, first, numbers)
    clean = figures.encoded_voices(network, first)
    drawn = figures.draw_masks_over_iterations(masks, clean, first, out.with_name(f"{out.name}_masks"))
    _say([table, *draw_curves(points, x_name, "SI-SNRi (dB)", out), *drawn])


@plot.command()
def cost(
    profile: Annotated[Path, typer.Argument(help="profile.csv, as 'lipsep profile -o' writes it.")],
    out: Out = Path("quality_cost"),
) -> None:
    """The papers' quality against the cost counted here."""
    from lipsep.plots.cost import draw_quality_cost

    _say(draw_quality_cost(profile, out))


def _say(written: list[Path]) -> None:
    typer.echo("written: " + ", ".join(f"'{path}'" for path in written))
