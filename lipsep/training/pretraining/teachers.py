"""Teachers: what a video encoder should know of each frame, computed while it learns or stored beforehand.

`log_mel` needs nothing restricted: the log-mel spectrum of the clean voice, aligned with the frames. `av_hubert` is the
network of the Dolphin paper, from a checkpoint that its authors give for research only.
"""

from __future__ import annotations

import hashlib
import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipsep.constants import SAMPLES_PER_FRAME, Hook
from lipsep.data.clips.clips import TalkingClip, TalkingClips
from lipsep.data.corpora.sound_to_mouth import N_MELS, LogMel
from lipsep.data.mixing.lip_view import whole_clip
from lipsep.encoders.av_hubert import load_av_hubert
from lipsep.errors import ModelError
from lipsep.lips.recipes import LipRecipe, lip_recipe
from lipsep.system.outputs import whole_file
from lipsep.training.recipe import TeacherPart

MELS_PER_FRAME = 4  # spectra per video frame
CLIPS_PER_SHARD = 64
LEVEL = 0.05  # RMS to which voices are brought before the spectrum
AV_HUBERT_LIPS = "mouth_88"


class Teacher(nn.Module):
    """Shape: lips (B, F, S, S), voice (B, 640 F) -> targets (B, F, dim).

    Attributes:
        name: as checkpoints record it.
        dim: length of a frame's target.
        lip_recipe: of the pictures that it must be shown; None: it looks at none.
        identity: of its weights; "" where it has none.
    """

    name: str
    dim: int
    lip_recipe: str | None = None
    identity = ""


class LogMelTeacher(Teacher):
    """The clean voice's spectrum, four of 40 bands per frame; see `lipsep.data.corpora.sound_to_mouth.LogMel`."""

    name, dim = "log_mel", MELS_PER_FRAME * N_MELS

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel()

    def forward(self, lips: Tensor, voice: Tensor) -> Tensor:
        level = LEVEL / (voice.square().mean(-1, keepdim=True).sqrt() + 1e-4)
        spectrum = self.log_mel(level * voice)  # (B, mel, 4 F)
        return spectrum.unflatten(-1, (-1, MELS_PER_FRAME)).permute(0, 2, 3, 1).flatten(2)


class AVHubertTeacher(Teacher):
    """AV-HuBERT's last features of the lips alone."""

    name, lip_recipe = "av_hubert", AV_HUBERT_LIPS

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network = load_av_hubert(weights).requires_grad_(False)
        self.dim = self.network.config.channels
        content = hashlib.sha256()
        with weights.open("rb") as file:
            while piece := file.read(1 << 24):
                content.update(piece)
        self.identity = content.hexdigest()

    def forward(self, lips: Tensor, voice: Tensor) -> Tensor:
        return self.network(lips)


class StoredTeacher(Teacher):
    """Stands for a teacher whose targets were stored: they come with the examples in place of the voice."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.name, self.dim, self.identity = teacher.name, teacher.dim, teacher.identity

    def forward(self, lips: Tensor, voice: Tensor) -> Tensor:
        return voice


def create_teacher(part: TeacherPart, pictures: LipRecipe) -> Teacher:
    """The teacher that the recipe names.

    Args:
        pictures: the student's; without stored targets the teacher is shown the same.

    Raises:
        ModelError: it lacks weights, or cannot see the student's pictures.
        WeightsError: its weights cannot be read.
    """
    if part.name == "log_mel":
        return LogMelTeacher()
    if part.weights is None:
        raise ModelError("recipe: teacher av_hubert needs 'weights', the file large_vox_433h.pt of its authors")
    size = lip_recipe(AV_HUBERT_LIPS).size
    if part.targets is None and pictures.size != size:
        raise ModelError(
            f"recipe: av_hubert sees pictures of {size} px and the model has {pictures.size}: name a folder 'targets'"
        )
    return AVHubertTeacher(part.weights)


def teaching_card(teacher: Teacher) -> dict[str, Any]:
    """What a checkpoint says of its teacher."""
    return {"teacher": teacher.name, **({"teacher_sha256": teacher.identity} if teacher.identity else {})}


def taught_by(teacher: Teacher) -> str:
    """What the provenance of its pupils says."""
    return f"taught by {teacher.name}" + ("" if teacher.name == "av_hubert" else ", without AV-HuBERT")


class StoredTargets:
    """A teacher's targets of each clip of a corpus, float16 on disk, one file per `CLIPS_PER_SHARD` clips."""

    def __init__(self, folder: Path, clips: TalkingClips) -> None:
        self._starts = np.concatenate([[0], np.cumsum(clips.n_frames)])
        self._shards = [np.load(path, mmap_mode="r") for path in _shard_paths(folder, len(clips))]

    def __getitem__(self, index: int) -> np.ndarray:
        """Shape: (F, dim) float32."""
        number = index // CLIPS_PER_SHARD
        first = self._starts[number * CLIPS_PER_SHARD]
        part = self._shards[number][self._starts[index] - first : self._starts[index + 1] - first]
        return part.astype(np.float32)


def store_targets(teacher: Teacher, clips: TalkingClips, folder: Path, hook: Hook) -> StoredTargets:
    """Compute what is not there yet; each shard appears complete or not at all, so several runs may share a folder.

    Raises:
        ModelError: the folder holds the targets of another teacher or corpus.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = hashlib.sha256(json.dumps([clips.names, np.asarray(clips.n_frames).tolist()]).encode()).hexdigest()
    card = {**teaching_card(teacher), "dim": teacher.dim, "clips": len(clips), "corpus_sha256": names}
    card_path = folder / "targets.json"
    if card_path.is_file() and json.loads(card_path.read_text(encoding="utf-8")) != card:
        raise ModelError(f"'{folder}' holds targets of another teacher or corpus: name another folder, or delete it")
    with whole_file(card_path) as part:
        part.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    paths = _shard_paths(folder, len(clips))
    for number, path in enumerate(paths):
        hook("targets", number, len(paths))
        if not path.is_file():
            first = number * CLIPS_PER_SHARD
            stop = min(len(clips), first + CLIPS_PER_SHARD)
            shard = np.concatenate([_targets_of(teacher, clips[index]) for index in range(first, stop)])
            with whole_file(path) as part:
                np.save(part, shard)
    return StoredTargets(folder, clips)


@torch.inference_mode()
def _targets_of(teacher: Teacher, clip: TalkingClip) -> np.ndarray:
    """(F, dim) float16."""
    device = next(chain(teacher.parameters(), teacher.buffers())).device
    lips = torch.empty(1, clip.n_frames, 0, 0)
    if teacher.lip_recipe is not None:
        lips = torch.from_numpy(whole_clip(clip, teacher.lip_recipe))[None]
    voice = torch.from_numpy(clip.voice[: clip.n_frames * SAMPLES_PER_FRAME])[None]
    return teacher(lips.to(device), voice.to(device))[0].cpu().numpy().astype(np.float16)


def _shard_paths(folder: Path, n_clips: int) -> list[Path]:
    return [folder / f"shard_{number:05d}.npy" for number in range(-(-n_clips // CLIPS_PER_SHARD))]
