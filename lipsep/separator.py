"""The main path as one object: a video goes in, one voice per visible person comes out."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from lipsep.checkpoints.catalogue import DEFAULT_MODEL
from lipsep.checkpoints.folder import load_model, weights_digest
from lipsep.constants import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, Hook
from lipsep.errors import MediaError, OptionError
from lipsep.faces.tracks import FaceTrack, face_picture
from lipsep.lips.reading import extract_lips
from lipsep.lips.recipes import lip_recipe
from lipsep.lips.sync import ShiftedLips, asked_offset, find_offset
from lipsep.media.sound import FRAME, SILENT_DBFS, is_silent, loudest_power
from lipsep.models import SeparationModel
from lipsep.results.people import find_people
from lipsep.results.remix import remix_gains
from lipsep.results.report import describe_run, finished
from lipsep.results.run import Run, open_clip
from lipsep.results.speech import find_speech
from lipsep.results.voices import RecordedVoices, SeparatedVoices
from lipsep.results.writing import write_results
from lipsep.separation.device import choose_device
from lipsep.separation.options import Options
from lipsep.separation.presence import heard
from lipsep.separation.streaming import check_streamable, separate_stream
from lipsep.separation.windows import separate_windows
from lipsep.system.outputs import REPORT, OutputFolder, writing_to
from lipsep.system.spool import Spool

AFTER_SOUND_FRAMES = FPS  # pictures that are looked at after the sound has ended
LEARNED_PEOPLE = 2  # who speak at a time in what models of one face are trained on


@dataclass(repr=False)
class SeparationResult:
    """What one run found. Voices are in memory only when no output folder was given."""

    tracks: list[FaceTrack]
    report: dict[str, Any]
    voices: np.ndarray | None = None
    """float32 (n_people, T) at 16 kHz, in the order of `tracks`; as long as the input and aligned with it. With
    `rate="original"`: (n_people, n_channels, T) at `sample_rate`."""
    residual: np.ndarray | None = None
    """float32 (T,), or (n_channels, T): the mixture minus all voices."""
    files: list[Path] = field(default_factory=list)
    skipped: bool = False
    """True: the folder already held this very result, nothing was done, `tracks` is empty."""
    sample_rate: int = SAMPLE_RATE
    """Hz, of the voices and the residual, in memory and in files."""

    def __repr__(self) -> str:
        """Who was found, for how long each speaks, and where the results are."""
        report, model = self.report, self.report["model"]
        people = [
            f"{t.get('name', t['person'])} speaks {sum(b - a for a, b in t['speech']):.1f} s" for t in report["tracks"]
        ]
        where = str(self.files[0].parent) if self.files else "in memory (voices, residual)"
        warnings = report["warnings"]
        return (
            f"SeparationResult of '{report['input']['name']}', {report['input']['duration_s']:g} s\n"
            f"  people    {len(people)}: {'; '.join(people)}\n"
            f"  results   {where}, {self.sample_rate} Hz{', already there' if self.skipped else ''}\n"
            f"  model     {model['name']} on {model['device']}, {report['seconds']['total']:.1f} s\n"
            f"  warnings  {len(warnings)}{': ' + warnings[0] if warnings else ''}"
        )


def _in_float32(method: Callable[..., Any]) -> Callable[..., Any]:
    """Whatever torch does unasked elsewhere (default type, default device, autocast), here it makes float32, as the
    weights are, where it is told."""

    @functools.wraps(method)
    def called(*given: Any, **named: Any) -> Any:
        kept = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with ExitStack() as stack:
                if torch.get_default_device().type != "cpu":  # the context costs a little with every call of torch
                    stack.enter_context(torch.device("cpu"))
                for kind in ("cpu", "cuda"):
                    if torch.is_autocast_enabled(kind):
                        stack.enter_context(torch.autocast(kind, enabled=False))
                return method(*given, **named)
        finally:
            torch.set_default_dtype(kept)

    return called


class Separator:
    """Separates the voices of everyone who is visible in a video.

        result = Separator()("interview.mp4", "results/interview")
        voices = Separator("JusperLee/Dolphin", device="cuda")("interview.mp4").voices

    Args:
        model: a registered name with weights, a folder with config.json and model.safetensors, a hub id, a
            file that `lipsep export` wrote, or a `SeparationModel` (which is switched to evaluation mode and moved to
            the device).
        device: "auto" (CUDA where there is one, else the processor), "cpu", "cuda", "cuda:1" or "mps".
        window_s, overlap_s, batch: see `separation.windows.separate_windows`; batch None means 8 on a GPU, elsewhere
            one per thread, side by side, 4 at most (with the full Dolphin each takes a quarter of a GB).

    Raises:
        ModelError: unknown model or device. WeightsError: missing, damaged or foreign weights.
    """

    @_in_float32
    def __init__(
        self,
        model: str | os.PathLike | SeparationModel = DEFAULT_MODEL,
        device: str = "auto",
        *,
        window_s: float = 4.0,
        overlap_s: float = 1.0,
        batch: int | None = None,
    ) -> None:
        loaded = model if isinstance(model, torch.nn.Module) else load_model(model)
        lip_recipe(loaded.lip_recipe)  # that there is one, before any work is done
        self.device = choose_device("cpu" if device == "auto" and loaded.processor_only else device)
        self._fingerprint, self._iterations = weights_digest(loaded)[:16], loaded.iterations
        self.model = loaded.to(self.device).prepare_for_inference()
        self.window_s, self.overlap_s = window_s, overlap_s
        self.batch = batch or (min(torch.get_num_threads(), 4) if self.device.type == "cpu" else 8)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        device: str = "auto",
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        **settings: Any,
    ) -> Separator:
        """A hub id such as "JusperLee/Dolphin", or a local folder in the hub's layout; loaded strictly.

        Args:
            revision: branch, tag or commit of a hub id; None: main.
            cache_dir: where downloads are kept; None: the hub's own place.
            token: for private repositories; None: that of `huggingface-cli login` or of HF_TOKEN.
            settings: see the class.
        """
        return cls(load_model(name, revision=revision, cache_dir=cache_dir, token=token), device, **settings)

    @_in_float32
    def __call__(
        self,
        source: str | os.PathLike | BinaryIO | tuple[np.ndarray, np.ndarray],
        out_dir: str | os.PathLike | None = None,
        *,
        options: Options | None = None,
        hook: Hook | None = None,
        on_faces: Callable[[list[FaceTrack]], None] | None = None,
        **named: Any,
    ) -> SeparationResult:
        """Separate one video.

        Args:
            source: a path, a seekable binary file, or (waveform float (T,) at 16 kHz, frames uint8 (F, H, W, 3) RGB at
                25 fps).
            out_dir: where speaker_1.wav, speaker_1.mp4, ..., residual.wav, overview.png and report.json go, streamed
                so that an hour needs no more memory than a minute. None: nothing is written, voices come as arrays.
            options: what is asked; `lipsep.separation.options.Options` says what there is.
            hook: called as `hook(step, completed, total)`, steps "read", "faces", "lips", "separate", "write".
            on_faces: called with everyone who was found, before their voices are separated.
            named: fields of `Options` by name, in place of `options`: `separator("a.mp4", speakers=2)`.

        Raises:
            MediaError: no sound, no pictures, or a file that cannot be read.
            FaceError: nobody is visible.
            OptionError: an option that there is not, or a value that means nothing.
            OutputError: the folder cannot be written, or holds finished work of another job.
            ModelError: `iterations` of a model that does not iterate, or `streaming` of one that is not causal.
        """
        if options is None:
            options = Options.of(**named)
        elif named:
            raise OptionError(f"give {', '.join(named)} within `options`, or all options by name")
        if options.streaming:
            check_streamable(self.model)
        clip = open_clip(source, options)
        settings = {
            "model": self.model.name,
            "weights": self._fingerprint,
            **options.settings(),
            "window_s": self.window_s,
            "overlap_s": self.overlap_s,
        }
        number = self._iterations if options.iterations is None else options.iterations
        settings["iterations"] = number
        if number is not None:
            self.model.iterations = number
        run = Run(clip, options, settings, hook, on_faces)
        if out_dir is None:
            with tempfile.TemporaryDirectory(prefix="lipsep-") as work, writing_to(Path(work)), ExitStack() as stack:
                found = self._separate(run, Path(work), stack)
                report = {**describe_run(run, found, self._facts(), []), "scale": 1.0}  # arrays need no turning down
                if options.rate == "original":
                    recorded = RecordedVoices(found, clip)
                    *voices, residual = np.concatenate(list(recorded.blocks()), axis=-1)
                    return SeparationResult(
                        found.tracks, report, np.stack(voices), residual, sample_rate=recorded.sample_rate
                    )
                voices = np.stack([v.read(0, len(v)) for v in found.voices])
                residual = found.residual.read(0, len(found.residual)).copy()  # `read` gives views of bytes
                return SeparationResult(found.tracks, report, voices, residual)

        out_dir = Path(out_dir)
        sample_rate = clip.recorded_form()[0] if options.rate == "original" else SAMPLE_RATE
        earlier = finished(out_dir, clip, settings, options.overwrite)
        if earlier:
            files = [out_dir / name for name in (*earlier["files"], REPORT)]
            return SeparationResult([], earlier, files=files, skipped=True, sample_rate=sample_rate)
        with OutputFolder(out_dir) as folder, writing_to(out_dir), ExitStack() as stack:
            found = self._separate(run, folder.staging, stack)
            with run.step("write"):
                write_results(
                    found,
                    clip,
                    folder,
                    options=options,
                    progress=run.progress,
                    warn=run.warn,
                )
            if found.scale < 1:
                run.warn(f"voices louder than full scale: every file is scaled by the same factor {found.scale:.3f}")
            names = sorted(p.relative_to(folder.results).as_posix() for p in folder.results.rglob("*") if p.is_file())
            report = describe_run(run, found, self._facts(), names)
            return SeparationResult(found.tracks, report, files=folder.publish(report), sample_rate=sample_rate)

    def _separate(self, run: Run, work: Path, stack: ExitStack) -> SeparatedVoices:
        """Sound, faces, lips and voices, in this order; everything long lies in files under `work`."""
        clip, options = run.clip, run.options

        def spool() -> Spool:
            return stack.enter_context(closing(Spool(folder=work)))

        with run.step("read"):
            mixture = spool()
            loudest = 0.0
            for note in clip.sound.notes:
                run.warn(note)
            for block in clip.audio():
                mixture.append(block)
                loudest = max(loudest, loudest_power(block))
                run.progress("read", len(mixture), clip.n_samples)
            run.progress("read", len(mixture), len(mixture))  # the length was an estimate until here
            if not len(mixture):
                raise MediaError(f"'{clip.name}' has a sound track without any sound in it: nothing to separate")
            if len(mixture) >= FRAME and is_silent(loudest):
                raise MediaError(
                    f"the sound of '{clip.name}' is silent from beginning to end (below {SILENT_DBFS:g} dB of full "
                    "scale): there is no voice to separate; check the recording, or name another sound track"
                )
        # pictures long after the sound have nothing to tell, and damaged timestamps can make hours of them
        n_seen = min(clip.n_frames, -(-len(mixture) // SAMPLES_PER_FRAME) + AFTER_SOUND_FRAMES)
        with run.step("faces"):
            tracks = find_people(run, n_seen, work)
            if options.speakers and len(tracks) < options.speakers:
                run.warn(f"only {len(tracks)} of the {options.speakers} people asked for are visible long enough")
            if self.model.faces_at_once:
                self._warn_of_places(run, len(tracks))
            gains = remix_gains(options, [track.person for track in tracks])  # before half an hour of work
            if run.on_faces:
                run.on_faces(tracks)
        with run.step("lips"):
            recipe = lip_recipe(self.model.lip_recipe)
            needs_frames = recipe.source == "pixels"
            frames = run.counted("lips", islice(clip.frames(grey=True), n_seen), n_seen) if needs_frames else ()
            lips = [stack.enter_context(each) for each in extract_lips(tracks, frames, recipe, work)]
            run.offset = asked_offset(options.sync) or find_offset(tracks, mixture.read, len(mixture))
            if run.offset.n_frames:
                lips = [ShiftedLips(each, run.offset.n_frames) for each in lips]
            run.warn_of_offset()
        with run.step("separate"):
            n_frames = -(-len(mixture) // SAMPLES_PER_FRAME)
            needs_faces = self.model.needs_faces
            faces = [face_picture(t.thumbnail, self.model.config.face_size) for t in tracks] if needs_faces else None
            found = SeparatedVoices(tracks, lips, mixture, [spool() for _ in tracks], spool(), options.names, gains)
            present = None if options.keep_offscreen else [heard(t.present, n_frames) for t in tracks]
            voices = (self.model, mixture.read, len(mixture), lips, present)
            common = {"device": self.device, "hook": run.progress, "warn": run.warn}
            if options.streaming:
                blocks = separate_stream(*voices, **common)
            else:
                windows = {"window_s": self.window_s, "overlap_s": self.overlap_s, "batch": self.batch}
                windows["conserve"] = len(tracks) > max(self.model.n_faces, LEARNED_PEOPLE)
                workers = torch.get_num_threads() if self.device.type == "cpu" else 1
                blocks = separate_windows(*voices, faces, **windows, workers=workers, **common)
            for start, block in blocks:
                found.add(mixture.read(start, start + block.shape[1]), block)
            found.speech = find_speech(tracks, found.voices, len(mixture), run.offset.n_frames)
        return found

    def _warn_of_places(self, run: Run, n_people: int) -> None:
        """If more people are visible than the model takes at once, or fewer than it ever saw."""
        at_once, how = self.model.n_faces, "the rest is noise to it"
        if n_people < at_once:
            if self.model.takes_empty_places:
                return
            how = "empty places see no mouth"
        if n_people != at_once:
            run.warn(f"{n_people} visible, and '{self.model.name}' separates {at_once} at a time: {how}")

    def _facts(self) -> dict[str, Any]:
        """What the report says about the model."""
        return {
            "name": self.model.name,
            "parameters": self.model.n_parameters,
            "weights": self._fingerprint,
            **{key: self.model.metadata.get(key, "not stated") for key in ("licence", "provenance")},
            "lip_recipe": self.model.lip_recipe,
            "levels": "of the model" if self.model.keeps_level else "least squares on the mixture, per window",
            "device": str(self.device),
        }
