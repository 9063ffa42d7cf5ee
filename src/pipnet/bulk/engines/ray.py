"""The engine of Ray actors, on this machine or a cluster in which all machines see the same files."""

from __future__ import annotations

import logging
import os
from typing import Any

from pipnet.bulk.shard_labeler import Shard
from pipnet.bulk.store import ShardRecord
from pipnet.bulk.worker import Worker, WorkerConfig
from pipnet.errors import MissingExtraError, PipnetError


class RayEngine:
    """Ray actors with a model each. An actor that dies, alone or with its machine, is replaced."""

    def __init__(self, config: WorkerConfig, workers: int | None) -> None:
        """Connect to the cluster of ``RAY_ADDRESS`` or of this machine, or start one here.

        Args:
            config: the config of the workers.
            workers: the number of actors; as many as the cluster has resources for if None.

        Raises:
            MissingExtraError: Ray is not installed.
            PipnetError: the cluster cannot be reached or has no free resources.
        """
        # Ray's usage statistics are off unless the user turns them on.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray as module
        except ImportError:
            raise MissingExtraError("ray", "bulk") from None
        ray: Any = module  # Ray is only partly typed
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
        except Exception as error:  # Ray raises unrelated exceptions, depending on the cause
            raise PipnetError(f"Ray cannot be reached: {' '.join(str(error).split()):.200}") from None
        self._ray = ray
        cuda = config.config.runtime.device.startswith("cuda")
        resources = ray.cluster_resources()
        capacity = int(resources.get("GPU", 0)) if cuda else int(resources.get("CPU", 0)) // config.threads
        self.size = min(workers or capacity, capacity)
        if self.size < 1:
            ray.shutdown()
            kind = "GPUs" if cuda else "CPUs"
            raise PipnetError(f"the Ray cluster has not enough {kind} for {workers or 1} workers")
        variables = {"OMP_NUM_THREADS": str(config.threads)}
        self._actor = ray.remote(Worker).options(
            num_cpus=config.threads, num_gpus=int(cuda), max_restarts=0, runtime_env={"env_vars": variables}
        )
        self._config = ray.put(config)
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Shard]] = {}

    def submit(self, shard: Shard) -> None:
        """See `Engine.submit`."""
        actor = self._idle.pop() if self._idle else self._actor.remote(self._config)
        self._busy[actor.annotate.remote(shard)] = actor, shard

    def wait(self) -> tuple[Shard, ShardRecord | None]:
        """See `Engine.wait`."""
        (task,), _ = self._ray.wait(list(self._busy), num_returns=1)
        actor, shard = self._busy.pop(task)
        try:
            result: ShardRecord | str = self._ray.get(task)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError):
            return shard, None
        except self._ray.exceptions.RayError as error:
            raise PipnetError(f"Ray: {str(error).splitlines()[-1]:.200}") from None
        if isinstance(result, str):
            raise PipnetError(result)
        self._idle.append(actor)
        return shard, result

    def stop(self) -> None:
        """See `Engine.stop`."""
        self._ray.shutdown()
