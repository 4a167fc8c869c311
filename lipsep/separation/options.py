"""What is asked of the separation of one file: the same in Python, on the command line, on the page and over HTTP."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from lipsep.errors import OptionError

MOST_MS = 60_000.0  # that sound is asked to be shifted by


RESIDUAL = "residual"  # what nobody visible said


def _words(given: object) -> object:
    """ "1=Anna,2=Ben" or a list of such -> ("1=Anna", "2=Ben"); as UTF-8, also where LC_ALL=C does not."""
    several = [given] if isinstance(given, str | int) else given if given is not None else ()
    if not isinstance(several, list | tuple):
        return given
    texts = [str(each).encode(errors="surrogateescape").decode(errors="replace") for each in several]
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


def _each(form: str) -> Any:
    """What each word looks like, as the HTTP interface describes it, too; several may still stand in one text."""
    return Field(pattern=f"^({form})(,({form}))*$")


_WHO = rf"[0-9]{{1,4}}|{RESIDUAL}"
People = Annotated[tuple[Annotated[str, _each(r"[0-9]{1,4}(\+[0-9]{1,4})*")], ...], BeforeValidator(_words)]
Names = Annotated[tuple[Annotated[str, _each(r"[0-9]{1,4}=[^=/\\,]+")], ...], BeforeValidator(_words)]
Gains = Annotated[
    tuple[Annotated[str, _each(rf"({_WHO})=[-+]?[0-9]{{1,4}}(\.[0-9]{{1,4}})?")], ...], BeforeValidator(_words)
]
Whose = Annotated[tuple[Annotated[str, _each(_WHO)], ...], BeforeValidator(_words)]


class Options(BaseModel):
    """What is asked of the separation of one file.

    Each field is an option of `lipsep separate` under its own name (`--face-scale`), a field of the form that
    `lipsep serve` takes, and an environment variable (`LIPSEP_FACE_SCALE=2`) for all that starts from a shell. The
    sentence beside a field is what its users read there.

        Separator()("interview.mp4", options=Options(speakers=2, rate="original"))
        Separator()("interview.mp4", speakers=2, rate="original")    # the same
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    speakers: int | None = Field(
        None, ge=0, le=100, description="Keep the N people seen most; 0 or not given: everyone who matters."
    )
    detect_every_n: int = Field(5, ge=1, le=1000, description="Look for new faces in every n-th frame.")
    face_scale: float = Field(1.0, gt=0, le=16, description="2 finds faces of half the size, more slowly.")
    rotate: Literal["auto", "0", "90", "180", "270"] = Field(
        "auto", description="Turn pictures clockwise by so many degrees; auto: where else nobody is found."
    )
    min_visible_s: float = Field(0.5, gt=0, le=3600, description="Who is visible for fewer seconds in all is left out.")
    keep_offscreen: bool = Field(False, description="Also hear people while they are not visible.")
    iterations: int | None = Field(
        None, ge=1, le=100, description="Of a model that refines its answer step by step: fewer are quicker."
    )
    rate: Literal["16k", "original"] = Field(
        "16k", description="Voices at 16k (mono), or original: the rate and the channels of the input."
    )
    video: Literal["none", "original", "tracked"] = Field(
        "original", description="A video per person: none, original, or tracked (boxes drawn in)."
    )
    audio_track: str = Field(
        "auto",
        pattern=r"^(auto|mix|[1-9]\d{0,3})$",
        description="Sound track, counted from 1; mix: all added up; auto: the default, else the first not silent.",
    )
    start: float = Field(0.0, ge=0, description="Begin here: seconds, or h:mm:ss; times then count from there.")
    end: float | None = Field(None, gt=0, description="End here: seconds, or h:mm:ss.")
    people: People = Field((), description="Separate these people alone, such as 1,3; 1+4 are one person.")
    name: Names = Field((), description="What a person is called, in names of files too, such as 1=Anna.")
    gain: Gains = Field((), description="Turn somebody up or down in remix.wav, in dB: 2=-12, or residual=-6.")
    mute: Whose = Field((), description="Leave somebody out of remix.wav: a number, or residual.")
    solo: Whose = Field((), description="Leave everybody else out of remix.wav: a number, or residual.")
    tracks: Literal["none", "mp4", "mov", "mkv", "wav"] = Field(
        "none", description="One film more with the original and a named sound track per person; wav: as channels."
    )
    sound: Literal["wav", "flac", "mp3", "opus"] = Field("wav", description="Voices also in this format.")
    timeline: bool = Field(False, description="Also write timeline.otio for video editors (OpenTimelineIO).")
    save_artifacts: bool = Field(False, description="Also write landmarks and the lip pictures the model saw.")
    streaming: bool = Field(False, description="Piece by piece, hearing the past alone; for causal models.")
    sync: float | Literal["auto", "off"] = Field(
        "auto",
        description="Late or early sound: auto (corrected where sure), off, or by how many ms it is late.",
    )
    overwrite: bool = Field(False, description="Do finished work again and replace it.")

    @field_validator("audio_track", "rotate", mode="before")
    @classmethod
    def _number_or_word(cls, track: object) -> object:
        return str(track) if isinstance(track, int) and not isinstance(track, bool) else track

    @field_validator("speakers")
    @classmethod
    def _everyone(cls, speakers: int | None) -> int | None:
        return speakers or None

    @field_validator("sync", mode="before")
    @classmethod
    def _auto_off_or_ms(cls, sync: object) -> object:
        if sync in ("auto", "off"):
            return sync
        with suppress(TypeError, ValueError):
            if abs(float(sync)) < MOST_MS:  # type: ignore[arg-type]
                return float(sync)  # type: ignore[arg-type]
        raise ValueError("use auto, off, or milliseconds, 120 for sound that comes 120 ms late")

    @field_validator("start", "end", mode="before")
    @classmethod
    def _clock(cls, time: object) -> object:
        """ "1:02:03.5" -> 3723.5."""
        if isinstance(time, str) and ":" in time:
            parts = time.split(":")
            if len(parts) > 3 or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts):
                raise ValueError("use seconds, or h:mm:ss")
            return sum(float(part) * 60**k for k, part in enumerate(reversed(parts)))
        return time

    @property
    def names(self) -> dict[int, str]:
        """What people are called, by number, where that was said."""
        return {int(number): text.strip() for number, _, text in (word.partition("=") for word in self.name)}

    @classmethod
    def of(cls, **values: Any) -> Options:
        """The options that `values` name, the others as they are by default.

        Raises:
            OptionError: a name or a value that means nothing, in one line.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name, found = str(first["loc"][0]), first["input"]
            if first["type"] == "extra_forbidden":
                raise OptionError(f"there is no option '{name}': there are {', '.join(cls.model_fields)}") from None
            if first["type"] == "literal_error":
                raise OptionError(f"{name} '{found}' is not a choice: use {first['ctx']['expected']}") from None
            if first["type"] == "string_pattern_mismatch":
                raise OptionError(f"{name} '{found}' is not a choice: {cls.model_fields[name].description}") from None
            reason = first["msg"].removeprefix("Value error, ")
            raise OptionError(f"{name} '{found}' is not a choice: {reason[0].lower()}{reason[1:]}") from None

    @classmethod
    def from_environment(cls, **values: Any) -> Options:
        """The options that `values` name, others from LIPSEP_* variables where these are set.

        Raises:
            OptionError: see `of`.
        """
        told = {name: os.environ[variable(name)] for name in cls.model_fields if variable(name) in os.environ}
        return cls.of(**told | values)

    def settings(self) -> dict[str, Any]:
        """What makes the result another one, for the report: all but whether an earlier result may be replaced."""
        return self.model_dump(mode="json", exclude={"overwrite"})


def variable(name: str) -> str:
    """The environment variable of an option: `face_scale` -> `LIPSEP_FACE_SCALE`."""
    return f"LIPSEP_{name.upper()}"
