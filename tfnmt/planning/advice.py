"""How much faster another row would be on the machines of a run, by what its first updates took."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

from tfnmt.engines.report import PushReport
from tfnmt.engines.virtual_time import Costs, CostSettings
from tfnmt.planning.prediction import predict
from tfnmt.strategies import Strategy

_SLOWEST_NETWORK, _FASTEST_NETWORK = 1.0, 1e12  # bytes a second
_HALVINGS = 13  # of the logarithm of the span between them: 0.3% of a speed, while training waits


@dataclasses.dataclass(frozen=True)
class Machines:
    """What a run trains on.

    Attributes:
      workers: how many.
      servers: parameter servers.
      vector_bytes: of a vector of all parameters.
      has_no_servers: whether the workers exchange a row's vectors among themselves.
    """

    workers: int
    servers: int
    vector_bytes: int
    has_no_servers: Callable[[Strategy], bool]

    def speed_up(self, other: Strategy, running: Strategy, pushes: Sequence[PushReport]) -> float:
        """Target tokens a second of another row over those of the running one, as the cost model has them.

        What a step, a meeting and an update cost, and how unequal workers and steps are, was measured. How fast the
        network is follows from what the running row makes of it.

        Args:
          other: the row that does not run.
          running: the row that does.
          pushes: of the running row, several of each worker; one at least has target tokens.
        """
        pushes = [push for push in pushes if push.target_tokens]  # but for those whose steps were all left out
        settings, batch_tokens = self._measured(running, pushes)
        seconds = sum(push.seconds for push in pushes) / self.workers
        reached = sum(push.target_tokens for push in pushes) / seconds

        def tokens_per_second(row: Strategy, network_bytes_per_second: float) -> float:
            network = dataclasses.replace(settings, network_bytes_per_second=network_bytes_per_second)
            is_ring = self.has_no_servers(row)
            costs = Costs(network, 0, self.workers, self.servers, self.vector_bytes, is_ring=is_ring)
            return predict(row, costs, self.workers, batch_tokens).tokens_per_second

        low, high = math.log(_SLOWEST_NETWORK), math.log(_FASTEST_NETWORK)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if tokens_per_second(running, math.exp(middle)) < reached else (low, middle)
        network = math.exp(high)
        return tokens_per_second(other, network) / tokens_per_second(running, network)

    def _measured(self, running: Strategy, pushes: Sequence[PushReport]) -> tuple[CostSettings, int]:
        """The costs but for the network, and the target tokens of a step."""
        steps = running.meetings.steps_behind(0)
        side_by_side = 1 if self.has_no_servers(running) else self.servers
        moving_seconds = side_by_side * statistics.mean(push.server_seconds for push in pushes)  # a whole vector
        by_worker: dict[int, list[PushReport]] = {}
        for push in pushes:
            by_worker.setdefault(push.worker, []).append(push)
        own_seconds = steps * moving_seconds if running.local_update else 0.0
        rates = {worker: _seconds_per_token(found, own_seconds) for worker, found in by_worker.items()}
        fastest = min(rates.values())
        settings = CostSettings(
            seconds_per_token=fastest,
            jitter=math.sqrt(steps) * statistics.mean(map(_jitter, by_worker.values())),
            stragglers=tuple(f"{worker}:{rate / fastest}" for worker, rate in rates.items()) if fastest else (),
            meeting_seconds=max(statistics.mean(map(_unmeasured_seconds, pushes)), 0.0),
            server_seconds_per_byte=moving_seconds / self.vector_bytes,
        )
        return settings, max(round(statistics.mean(push.target_tokens for push in pushes) / steps), 1)


def _seconds_per_token(pushes: Sequence[PushReport], own_seconds: float) -> float:
    """What a worker computes for each token, beside the `own_seconds` of each push that its own updates take."""
    computed = sum(push.compute_seconds + push.data_wait_seconds - own_seconds for push in pushes)
    return max(computed, 0.0) / sum(push.target_tokens for push in pushes)


def _jitter(pushes: Sequence[PushReport]) -> float:
    """Standard deviation of the logarithm of what a worker's push has computed for each token."""
    rates = [push.compute_seconds / push.target_tokens for push in pushes]
    return statistics.pstdev(map(math.log, rates)) if min(rates) > 0 else 0.0


def _unmeasured_seconds(push: PushReport) -> float:
    """What no part of a push's time has."""
    parts = push.compute_seconds + push.data_wait_seconds + push.pull_seconds + push.push_seconds
    return push.seconds - parts - push.wait_seconds - push.server_seconds
