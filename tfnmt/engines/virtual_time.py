"""What computing and sending cost under the virtual clock of the simulated engine."""

import dataclasses

import numpy as np

from tfnmt.settings import setting

STAR, RING = "star", "ring"


@dataclasses.dataclass(frozen=True)
class CostSettings:
    """The machines and the network that the simulated engine pretends to have."""

    seconds_per_token: float = setting(0.0004, "Seconds that a worker computes for each target token.", minimum=0)
    step_seconds: float = setting(0.0, "Seconds that a worker needs for a step beside its tokens.", minimum=0)
    jitter: float = setting(0.1, "Standard deviation of the logarithm of a step's compute time.", minimum=0)
    stragglers: tuple[str, ...] = setting((), "Slow workers, as worker:factor: 3:2.5 computes 2.5 times as long.")
    network: str = setting(
        STAR, "Workers around parameter servers, or a ring of workers for rows with a barrier.", choices=(STAR, RING)
    )
    network_latency_seconds: float = setting(0.0001, "Seconds before the first byte of a transfer arrives.", minimum=0)
    network_bytes_per_second: float = setting(
        1.25e9, "Speed of each worker's link and each parameter server's link, in each direction.", minimum=1
    )

    def faults(self) -> list[str]:
        """Stragglers that are none."""
        return [
            f"--stragglers={text}: must be worker:factor, such as 3:2.5."
            for text in self.stragglers
            if _parse(text) is None
        ]


class Costs:
    """The durations of one run's events: functions of the seed, but for links, which are free or not."""

    def __init__(self, settings: CostSettings, seed: int, workers: int, servers: int, whole_bytes: int):
        """Takes the size of a whole parameter vector, of which each server has an equal part."""
        self._settings, self._seed, self._workers = settings, seed, workers
        self._factors = dict(found for text in settings.stragglers if (found := _parse(text)))
        own_link = whole_bytes / settings.network_bytes_per_second
        self._transfer_seconds = own_link
        self._server_seconds = own_link / servers
        self._free_at = {"out": 0.0, "in": 0.0}

    @property
    def is_ring(self) -> bool:
        """Whether there are no servers in between."""
        return self._settings.network == RING

    def compute_seconds(self, worker: int, step: int, target_tokens: float) -> float:
        """How long the worker computes one step."""
        noise = np.random.default_rng([self._seed, worker, step]).normal(0, self._settings.jitter)
        seconds = self._settings.step_seconds + target_tokens * self._settings.seconds_per_token
        return float(seconds * np.exp(noise) * self._factors.get(worker, 1.0))

    def transfer_ends(self, direction: str, begins: float, vectors: int) -> float:
        """When whole vectors that want to go in or out of the servers at `begins` are over.

        The servers' links are shared: transfers of one direction queue for them; a worker's own link is its own.
        """
        if self.is_ring:
            return begins
        start = max(begins, self._free_at[direction])
        self._free_at[direction] = start + vectors * self._server_seconds
        seconds = vectors * max(self._transfer_seconds, self._server_seconds)
        return start + self._settings.network_latency_seconds + seconds

    def reduction_seconds(self, vectors: int) -> float:
        """How long the workers reduce vectors among themselves once all have them; nothing with servers in between.

        Reduce-scatter and all-gather of a ring: 2 (N - 1) messages of the N-th part, one behind the other.
        """
        if not self.is_ring:
            return 0.0
        messages = 2 * (self._workers - 1)
        return messages * (self._settings.network_latency_seconds + vectors * self._transfer_seconds / self._workers)


def _parse(text: str) -> tuple[int, float] | None:
    worker, _, factor = text.partition(":")
    try:
        found = int(worker), float(factor)
    except ValueError:
        return None
    return found if found[0] >= 0 and found[1] > 0 else None
