"""A model, or a folder of separated files, over a set of mixtures: every utterance scored, means with intervals.

Two-cue test: a mixture is asked once with each face. It passes when every answer is closer (SI-SNR) to the voice of
the face that asked than to any other voice in the mixture: swap the lips and the voices must swap. A system that
ignores the lips passes for at most half of the pairs.

Multi-speaker mixtures take one pass per face, as in the paper (appendix G); models with `faces_at_once` take all.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipsep.checkpoints.folder import weights_digest
from lipsep.errors import MediaError, OutputError
from lipsep.evaluation.cases import Case, Cases, Estimates, open_cases
from lipsep.evaluation.conditions import Condition, Setting, conditions, find_noise
from lipsep.evaluation.metrics import METRICS, score
from lipsep.evaluation.summary import means_so_far, summarise
from lipsep.evaluation.tables import append_rows, read_rows, write_json, write_rows
from lipsep.faces.tracks import face_picture
from lipsep.losses import si_snr
from lipsep.models.base import SeparationModel, face_groups

Telling = Callable[..., None]
"""A `Hook` that also takes a note: telling(step, completed, total) or telling(step, completed, total, note)."""


@dataclass(frozen=True)
class Protocol:
    """What is scored and how; together with the system it decides every figure.

    Attributes:
        data: a manifest or a folder, see `lipsep.evaluation.cases`.
        root: folder that a manifest's paths are relative to.
        sweeps: robustness conditions besides the cases as given, see `lipsep.evaluation.conditions`.
        noise: folder of noise for the sweep "noise"; None makes pink noise.
        limit: score the first so many mixtures only.
    """

    data: Path
    root: Path = Path(".")
    sweeps: tuple[str, ...] = ()
    noise: Path | None = None
    limit: int | None = None


def evaluate(
    system: SeparationModel | Estimates,
    protocol: Protocol,
    out: Path | None = None,
    hook: Telling | None = None,
    processes: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score a system on every mixture of a protocol.

    Args:
        system: a model in eval mode, or a folder of its separated files.
        out: folder for ``utterances.csv`` (and ``.parquet`` where pyarrow is installed), ``means.json`` and
            ``settings.json``. A cut-off run goes on where it stopped; a finished one is read, not repeated.
        processes: workers; the processor threads of torch are shared out among them.
        overwrite: begin anew.

    Returns:
        See `lipsep.evaluation.summary.summarise`.

    Raises:
        OutputError: `out` holds the evaluation of another system or protocol.
        MediaError: something of the data is missing.
    """
    recipe_name = system.lip_recipe if isinstance(system, SeparationModel) else None
    with tempfile.TemporaryDirectory(prefix="lipsep-evaluation-") as cache:
        cases = open_cases(protocol.data, protocol.root, recipe_name, Path(cache), slice(protocol.limit))
        wanted = conditions(list(protocol.sweeps))
        if recipe_name is None:
            wanted = [condition for condition in wanted[:1] if not condition.needs_lips]
        names = cases.names
        done = _resume(out, describe(system, protocol), overwrite) if out is not None else []
        finished = {(row["condition"], row["mixture"]) for row in done}
        todo = [(c.name, i) for c in wanted for i, name in enumerate(names) if (c.name, name) not in finished]
        scored = list(done)
        work = Work(system, cases, tuple(protocol.sweeps), find_noise(protocol.noise))
        with _workers(work, processes) as map_in_workers:
            preparations = cases.preparations() if todo else []
            for completed, _ in enumerate(map_in_workers(_prepare, preparations), start=1):
                if hook is not None:
                    hook("lips", completed, len(preparations))
            for completed, rows in enumerate(map_in_workers(_score, todo), start=1):
                scored += rows
                if out is not None:
                    append_rows(out / PARTIAL, rows)
                if hook is not None:
                    hook("mixtures", completed, len(todo), means_so_far(scored))
    order = {(c.name, name): k for k, (c, name) in enumerate((c, name) for c in wanted for name in names)}
    scored.sort(key=lambda row: (order[row["condition"], row["mixture"]], row["position"]))
    means = summarise(scored)
    if out is not None:
        write_rows(out / "utterances.csv", scored)
        write_json(out / "means.json", means)
        (out / PARTIAL).unlink(missing_ok=True)
    return means


PARTIAL = "utterances.partial.csv"


def describe(system: SeparationModel | Estimates, protocol: Protocol) -> dict[str, Any]:
    """Everything that decides the figures, for ``settings.json``: names, not places, of folders; digests of the weights
    and of a manifest."""
    if isinstance(system, SeparationModel):
        who = {"model": system.name, "weights_sha256": weights_digest(system)}
    else:
        who = {"estimates": system.folder.resolve().name}
    settings = {key: value for key, value in asdict(protocol).items() if key != "root"}
    shown = {key: value.resolve().name if isinstance(value, Path) else value for key, value in settings.items()}
    if protocol.data.is_file():
        shown["data_sha256"] = hashlib.sha256(protocol.data.read_bytes()).hexdigest()
    return json.loads(json.dumps({**who, **shown, "metrics": METRICS}))


def _resume(out: Path, settings: dict[str, Any], overwrite: bool) -> list[dict[str, Any]]:
    """What is already scored under these settings."""
    file = out / "settings.json"
    kept = [path for path in (out / "utterances.csv", out / PARTIAL) if path.is_file()]
    if overwrite:
        for path in kept:
            path.unlink()
        kept = []
    if kept:
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if before != settings:
            changed = [key for key in settings if before is None or before.get(key) != settings[key]]
            raise OutputError(
                f"'{out}' holds an evaluation with other settings ({', '.join(changed) or 'more of them'}): "
                "choose another -o, or --overwrite"
            )
        rows = [row for path in kept for row in read_rows(path)]
        if out / PARTIAL in kept:  # what was cut off in the middle of a mixture goes
            (out / PARTIAL).unlink()
            append_rows(out / PARTIAL, rows)
        return rows
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)
    return []


# --- Workers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a worker process needs."""

    system: SeparationModel | Estimates
    cases: Cases
    sweeps: tuple[str, ...]
    noise_files: tuple[Path, ...]

    def prepare(self, what: str) -> None:
        self.cases.prepare(what)

    def score(self, condition_name: str, index: int) -> list[dict[str, Any]]:
        condition = self.condition(condition_name)
        case = condition.apply(Setting(self.cases, self.noise_files), self.cases.load(index), index)
        return [{"condition": condition_name, **row} for row in score_case(self.system, case)]

    def condition(self, name: str) -> Condition:
        return next(condition for condition in conditions(list(self.sweeps)) if condition.name == name)


_work: Work | None = None
"""This process's share, set once when a worker starts."""


def _start(work: Work, threads: int) -> None:
    global _work
    _work = work
    torch.set_num_threads(threads)


def _prepare(what: str) -> None:
    _work.prepare(what)


def _score(job: tuple[str, int]) -> list[dict[str, Any]]:
    return _work.score(*job)


@contextmanager
def _workers(work: Work, processes: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A map over this process, or over several; results come in order."""
    threads = torch.get_num_threads()
    if processes == 1:
        _start(work, threads)
        yield map
        return
    share = max(1, threads // processes)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, initializer=_start, initargs=(work, share))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


# --- One mixture -----------------------------------------------------------------------------------------------------


def separate_case(model: SeparationModel, case: Case) -> np.ndarray:
    """Ask a model with every face of a case: -> (n_src, T) float32.

    Raises:
        MediaError: the model needs pictures of faces, and the data has mouths only.
    """
    device = next(iter(model.state_dict().values())).device
    mixture = torch.from_numpy(case.mixture).to(device)[None]
    shown = [torch.from_numpy(case.lips).to(device)]  # what there is of each person: lips, and the face if needed
    if model.needs_faces:
        if not case.faces:
            raise MediaError(f"'{model.name}' needs pictures of faces, which this data lacks: use a manifest of clips")
        pictures = np.stack([face_picture(face, model.config.face_size) for face in case.faces])
        shown.append(torch.from_numpy(pictures).to(device))
    if not model.faces_at_once:
        with torch.inference_mode():
            asked = (model(mixture, *(each[k][None] for each in shown)) for k in range(len(case.sources)))
            return torch.cat([estimate[:, 0] for estimate in asked]).cpu().numpy()
    voices: dict[int, np.ndarray] = {}
    for group in face_groups(range(len(case.sources)), model.n_faces):
        together = (
            torch.stack([torch.zeros_like(each[0]) if k is None else each[k] for k in group])[None] for each in shown
        )
        with torch.inference_mode():
            estimates = model(mixture, *together)[0].cpu().numpy()  # (n_faces, T)
        for k, estimate in zip(group, estimates, strict=True):
            if k is not None:
                voices.setdefault(k, estimate)
    return np.stack([voices[k] for k in range(len(voices))])


def score_case(system: SeparationModel | Estimates, case: Case) -> list[dict[str, Any]]:
    """One dictionary per source: its metrics, and whether the answer is closest to its own voice."""
    estimates = separate_case(system, case) if case.lips is not None else system.read(case)  # (n_src, T)
    n_samples = min(estimates.shape[1], len(case.mixture))
    estimates, mixture = estimates[:, :n_samples], case.mixture[:n_samples]
    references = case.references[:, :n_samples]
    closeness = si_snr(torch.from_numpy(estimates)[:, None], torch.from_numpy(references)[None])  # (asked, heard)
    return [
        {
            "mixture": case.name,
            "position": k,
            "source": source,
            "talker": case.talkers[k],
            "n_src": len(case.sources),
            "gain_db": case.gains_db[k],
            "relative_level_db": case.relative_level_db(k),
            "own_voice": bool(np.any(estimates[k])) and int(closeness[k].argmax()) == k,  # silence is nobody's voice
            **score(estimates[k], references[k], mixture),
        }
        for k, source in enumerate(case.sources)
    ]
