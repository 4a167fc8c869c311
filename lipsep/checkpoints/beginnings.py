"""Where a model begins: from all weights of another, or from a trained separator alone."""

from __future__ import annotations

from lipsep.checkpoints.folder import load_model
from lipsep.errors import ModelError
from lipsep.models import SeparationModel


def take_all(model: SeparationModel, source: str) -> SeparationModel:
    """Begin with all weights of a model of the same sizes, which is returned.

    Raises:
        ModelError: it has others.
    """
    given = load_model(source)
    if differing := _differing_parts(model, given):
        raise ModelError(
            f"recipe: initial_weights '{source}' and this {model.name} differ in {', '.join(differing)}: they must "
            "have the same sizes; for a separator that learned with another video encoder there is initial_separator"
        )
    model.load_state_dict(given.state_dict())
    return given


def take_separator(model: SeparationModel, source: str) -> None:
    """Begin with the weights of a model that was trained with another video encoder: all but that encoder, parts of the
    video branch that differ in size, and what only this model has.

    Raises:
        ModelError: the other's weights do not fit outside the video branch.
    """
    given = load_model(source).state_dict()
    own = {name: value.shape for name, value in model.state_dict().items()}
    differing = {name.split(".")[0] for name, value in given.items() if own.get(name) != value.shape}
    eyes = {name for name, part in model.named_children() if part in model.video_parts()}
    if strangers := sorted(differing - eyes):
        raise ModelError(
            f"recipe: initial_separator '{source}' and this {model.name} differ in {', '.join(strangers)}: outside the "
            "video branch they must have the same sizes"
        )
    untaught = differing | {"video_encoder"}
    model.load_state_dict({k: v for k, v in given.items() if k.split(".")[0] not in untaught}, strict=False)


def _differing_parts(model: SeparationModel, other: SeparationModel) -> list[str]:
    """Names of the parts that only one of the two has, or whose weights have other names or shapes."""
    sizes = [{name: value.shape for name, value in one.state_dict().items()} for one in (model, other)]
    return sorted({name.split(".")[0] for name, _ in sizes[0].items() ^ sizes[1].items()})
