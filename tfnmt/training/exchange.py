"""What workers and servers had to say to each other between two log points."""

from collections.abc import Sequence

from tfnmt.engines.report import PushReport
from tfnmt.training.time_spent import TimeSpent


def exchange_values(pushes: Sequence[PushReport]) -> dict[str, float]:
    """The scalars of one log point, by TensorBoard's tag; nothing without pushes."""
    if not pushes:
        return {}
    staleness = [push.staleness for push in pushes]
    values = {
        "exchange/pushes": len(pushes),
        "exchange/refused_pushes": sum(push.refused is not None for push in pushes),
        "exchange/skipped_steps": sum(push.skipped_steps for push in pushes),
        "exchange/mean_staleness": sum(staleness) / len(pushes),
        "exchange/max_staleness": max(staleness),
        "exchange/bytes_pulled": sum(push.bytes_pulled for push in pushes),
        "exchange/bytes_pushed": sum(push.bytes_pushed for push in pushes),
    }
    shares = {f"time/{name}": share for name, share in TimeSpent.of(pushes).shares().items()}
    return values | shares | _speeds(pushes)


def _speeds(pushes: Sequence[PushReport]) -> dict[str, float]:
    """Target tokens a second of each worker."""
    tokens: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for push in pushes:
        tokens[push.worker] = tokens.get(push.worker, 0) + push.target_tokens
        seconds[push.worker] = seconds.get(push.worker, 0.0) + push.seconds
    return {
        f"workers/target_tokens_per_second_of_{worker}": tokens[worker] / seconds[worker]
        for worker in sorted(tokens)
        if seconds[worker]
    }
