"""Work shared out over the cores, graphics processors and machines of a Ray cluster, by Ray Data.

Every item is done at least once: what a process that died was doing is done again by another. Work whose outputs
appear whole or not at all, and that leaves finished outputs alone, is then neither lost nor doubled.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lipsep.errors import LipsepError, ModelError, needs_extra

LOCAL = "local"
MAX_BLOCKS = 20_000  # Ray Data keeps account of each
CONNECT_WITHIN_S = 10.0
MAX_DEATHS = 3  # of processes by one item, before it is held to be the cause


def on_ray(
    address: str,
    items: Sequence[Any],
    make_work: Callable[[], Callable[[Any], Any]],
    *,
    n_actors: int | None = None,
    threads: int = 1,
    gpus: bool = False,
) -> Iterator[tuple[Any, Any]]:
    """Do `make_work()(item)` for every item, once each unless a process dies; results come in any order.

    Args:
        address: "local" starts Ray on this machine for this call; else what `ray.init` takes: "auto" or "host:6379"
            of a cluster whose machines all have this version of lipsep and see the same files.
        items: anything that can be pickled.
        make_work: importable; called once in every actor, so that a model is loaded once.
        n_actors: default one per graphics processor if `gpus` and there are any, else one per `threads` cores.

    Raises:
        ModelError: ray is not installed, there is no cluster at `address`, or an item ends every process.
        LipsepError: raised by the work.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with needs_extra("--ray", "ray"):
        import ray
        import ray.data
    connected = ray.is_initialized()
    if not connected:
        _connect(ray, address, n_actors * threads if n_actors else None)
    try:
        found = ray.cluster_resources()
        n_gpus = int(found.get("GPU", 0)) if gpus else 0
        share = {"num_gpus": 1} if n_gpus else {"num_cpus": threads}
        n_actors = n_actors or n_gpus or max(1, int(found.get("CPU", 1)) // threads)
        for logger in ("ray.data", "ray"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
        results = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map(
            _Actor,
            fn_constructor_args=(make_work,),
            compute=ray.data.ActorPoolStrategy(size=min(n_actors, len(rows)), max_tasks_in_flight_per_actor=1),
            max_task_retries=MAX_DEATHS,
            **share,
        )
        try:
            for row in results.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, LipsepError):
                    raise result
                yield items[row["number"]], result
        except ray.exceptions.RayActorError as error:
            raise ModelError(
                f"a process on the cluster died {MAX_DEATHS + 1} times over the same piece of work, most likely for "
                "lack of memory or by a damaged file: what is finished is kept; try fewer at a time"
            ) from error
    finally:
        if not connected:
            ray.shutdown()


class _Actor:
    """What Ray Data runs in each of its processes."""

    def __init__(self, make_work: Callable[[], Callable[[Any], Any]]) -> None:
        self._work = make_work()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            result = self._work(pickle.loads(row["item"]))
        except LipsepError as error:  # as a result: Ray would make an error of its own of it
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


def _connect(ray: Any, address: str, n_cores: int | None) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    options = {"include_dashboard": False, "num_cpus": n_cores} if address == LOCAL else {}
    try:
        if host:
            socket.create_connection((host, int(port)), CONNECT_WITHIN_S).close()  # Ray itself would try for ever
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"no Ray cluster at '{address}' ({reason}): start one with  ray start --head , or use --ray local"
        ) from error
