"""What a recipe says about its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SyntheticPart(Strict):
    """Talkers who babble (`lipsep.data.synthetic.babble`): training and validation without any download."""

    talkers: int = 40  # to train on
    held_out_talkers: int = 8  # to validate on
    clips_per_talker: int = 6
    clip_s: float = 4.0
    seed: int = 0
    foreign_mouths: bool = False  # every voice with another's mouth: a control from which nothing can be learned


class DataPart(Strict):
    """Which corpora, and how they are mixed (`lipsep.data.mixing.mixing`): `finished`, `filmed` and `corpora`, or
    `synthetic`."""

    synthetic: SyntheticPart | None = None
    # Finished mixtures, wav16k/min with tr/ and cv/, for which `mixing` says the length alone; `published` in 0.1:
    finished: Path | None = Field(None, validation_alias=AliasChoices("finished", "published"))
    filmed: tuple[Path, ...] = ()  # one or more that `lipsep prepare` wrote, or folders of clips, one talker in each
    corpora: dict[str, Path] = Field(default_factory=dict)  # layout of `lipsep prepare` -> its folder, prepared or not
    filmed_held_out: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By corpus, talkers who neither train nor validate; the training ends with a report on them."""
    # Prepared corpora have splits of their own. Where there are none, names that begin so are never trained on:
    filmed_test_prefixes: tuple[str, ...] = ()
    filmed_validation_prefixes: tuple[str, ...] = ()
    unfilmed: tuple[Path, ...] = ()  # a folder of speech files, or several; names begin with the talker's id and '-'
    unfilmed_held_out: tuple[str, ...] = ()  # talkers who are never trained on; `voices` validates on them
    noises: Path | None = None  # folder of noise files; names begin with the class and '_'
    prepared: Path | None = None  # where prepared corpora are kept
    mixing: dict[str, Any] = Field(default_factory=dict)

    @field_validator("filmed", "unfilmed", mode="before")
    @classmethod
    def _several(cls, folders: Any) -> Any:
        """One folder need not stand in a list; a recipe that extends another leaves it out by null."""
        return () if folders is None else (folders,) if isinstance(folders, str | Path) else folders

    @model_validator(mode="after")
    def _complete(self) -> DataPart:
        if sum(bool(corpus) for corpus in (self.filmed or self.corpora, self.synthetic, self.finished)) != 1:
            raise ValueError(
                "needs either 'filmed' (folders of clips) or 'corpora' (by their layouts), 'finished' (of mixtures) or "
                "'synthetic' (talkers made up)"
            )
        if unknown := self.filmed_held_out.keys() - self.corpora.keys():
            raise ValueError(f"'filmed_held_out' names {', '.join(sorted(unknown))}, which 'corpora' does not")
        if self.filmed_held_out and sum(map(len, self.filmed_held_out.values())) < 2:
            raise ValueError("'filmed_held_out' names too few talkers: they are heard in pairs, so it needs two")
        if self.finished and (self.unfilmed or self.noises):
            raise ValueError("'finished' mixtures are finished: leave 'unfilmed' and 'noises' out")
        return self
