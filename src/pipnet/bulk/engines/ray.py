"""Actors of Ray, on this machine or a cluster. All machines must see the pictures and the job's folder."""

from __future__ import annotations

import logging
import os
from typing import Any

from pipnet.bulk.shard import Shard
from pipnet.bulk.store import Record
from pipnet.bulk.worker import Work, Worker
from pipnet.errors import MissingExtraError, PipnetError


class RayEngine:
    """One model an actor; an actor that dies, with its machine or alone, is replaced."""

    def __init__(self, work: Work, workers: int | None) -> None:
        """Connect to the cluster that ``RAY_ADDRESS`` names or that runs here, else start one here.

        Args:
            work: what actors must know.
            workers: how many of them; as many as the cluster has room for if None.

        Raises:
            MissingExtraError: Ray is not installed.
            PipnetError: no such cluster, or one without room.
        """
        # Ray reports its use to its makers unless told; whoever wants that can still say so.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = _ray()
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
        except Exception as error:  # unrelated exceptions for each cause
            raise PipnetError(f"Ray cannot be reached: {' '.join(str(error).split()):.200}") from None
        self._ray = ray
        cuda = work.config.runtime.device == "cuda"
        there = ray.cluster_resources()
        room = int(there.get("GPU", 0)) if cuda else int(there.get("CPU", 0)) // work.threads
        self.size = min(workers or room, room)
        if self.size < 1:
            ray.shutdown()
            raise PipnetError(f"no room for {workers or 1} workers on {'GPUs' if cuda else 'CPUs'} of Ray")
        variables = {"OMP_NUM_THREADS": str(work.threads)}
        self._actor = ray.remote(Worker).options(
            num_cpus=work.threads, num_gpus=int(cuda), max_restarts=0, runtime_env={"env_vars": variables}
        )
        self._work = ray.put(work)
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Shard]] = {}

    def give(self, shard: Shard) -> None:
        """See `Engine.give`."""
        actor = self._idle.pop() if self._idle else self._actor.remote(self._work)
        self._busy[actor.annotate.remote(shard)] = actor, shard

    def wait(self) -> tuple[Shard, Record | None]:
        """See `Engine.wait`."""
        (result,), _ = self._ray.wait(list(self._busy), num_returns=1)
        actor, shard = self._busy.pop(result)
        try:
            said: Record | str = self._ray.get(result)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError):
            return shard, None
        except self._ray.exceptions.RayError as error:
            raise PipnetError(f"Ray: {str(error).splitlines()[-1]:.200}") from None
        if isinstance(said, str):
            raise PipnetError(said)
        self._idle.append(actor)
        return shard, said

    def stop(self) -> None:
        """See `Engine.stop`."""
        self._ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "bulk") from None
    return ray
