"""The ledger: what is known about a run's pushes and updates, in plain Python.

At most once, quorum, progress, counters and clocks are kept here and nowhere else. The servers' variables are somebody
else's (`tfnmt.engines.servers`), who tells the ledger what became of each push and of each update.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from graphs.work import NO_SUMS, Sums
from tfnmt.batch import START
from tfnmt.engines.noise_scale import NoiseScale
from tfnmt.engines.report import BlockReport, PushReport, Waits
from tfnmt.engines.speeds import Speed, steps_in_proportion
from tfnmt.engines.worker import Progress, Push

_REPORTED = {name: BlockReport.__annotations__[name] for name in Sums._fields if name in BlockReport._fields}
"""Name -> type of the sums that a report tells."""


class Ledger:
    """Counts pushes and updates.

    Attributes:
      version: server updates so far.
      steps: local steps of each worker in the updates so far, the mean.
      progress: how far each worker has come.
      arrived: payloads since the last update.
      sums: of those payloads.
      weight: of the same, as they count.
      whole_weight: of the same, if all of them counted as they are.
      unit: the first weight among workers of the same that is not 0, by which the others are measured; 0 before it.
      phase_began: steps that each worker had done when the row that trains now began.
    """

    def __init__(self, workers: int, clock: Callable[[], float]):
        """Nobody has done anything yet; `clock` tells seconds."""
        self._workers, self._clock = workers, clock
        self.version, self.steps = 0, 0.0
        self.progress = [Progress() for _ in range(workers)]
        self.sums: Sums
        self.weight: float
        self.whole_weight: float
        self.unit: float
        self._nothing_arrived()
        self.phase_began = 0
        self._noise = NoiseScale()  # of the row that trains now
        self._set_speeds([])
        self._pushes: list[PushReport] = []  # since the last report
        self._pushed_at = [clock()] * workers
        self._reported_at = clock()

    def begin_phase(self, by_speed: bool = False) -> None:
        """Another row trains from now on, whose blocks go by the workers' speeds or not."""
        self.phase_began = max(each.step for each in self.progress)
        self._noise = NoiseScale()
        self._set_speeds([Speed()] * (self._workers if by_speed else 0))

    def restart_clock(self) -> None:
        """Forgets the time since the last report: it was not spent on training."""
        paused = self._clock() - self._reported_at
        self._reported_at += paused
        self._pushed_at = [at + paused for at in self._pushed_at]

    def is_duplicate(self, push: Push) -> bool:
        """Whether the servers have had this push, or a later one of the worker."""
        return push.block <= self.progress[push.worker].block

    def staleness(self, push: Push) -> int:
        """Server updates between the worker's last pull and now."""
        return self.version - push.version

    def steps_of(self, worker: int, most: int) -> int:
        """How many of a block's steps a worker does; where blocks go by speed, while the fastest does all of them."""
        return steps_in_proportion(self._speeds, worker, most) if self._speeds else most

    def count(
        self,
        push: Push,
        waits: Waits,
        refused: str | None,
        moved_bytes: tuple[int, int],
        *,
        weight: float = 0.0,
        share: float = 1.0,
        unit: float = 0.0,
    ) -> None:
        """Remembers a push that was taken in or, for the reason given, refused; its worker has come that far.

        Args:
          push: the push.
          waits: how long the worker stood still since its last push.
          refused: why it does not count; None for a push that does.
          moved_bytes: that it has pulled and pushed.
          weight: of its payload.
          share: of the weight that counts.
          unit: the payload's weight among workers.
        """
        self._advance(push)
        self.arrived += 1
        if refused is None:
            self.sums = Sums(*map(operator.add, self.sums, push.work.sums))
            self.weight += share * weight
            self.whole_weight += weight
            self.unit = self.unit or unit
        self.note(push, waits, refused, moved_bytes)

    def drop(self, push: Push, waits: Waits, moved_bytes: tuple[int, int]) -> None:
        """Remembers a push that is too stale: its worker has come that far, and updates wait for as many as before."""
        self._advance(push)
        self.note(push, waits, f"it was {self.staleness(push)} updates old", moved_bytes, dropped=True)

    def _advance(self, push: Push) -> None:
        self.progress[push.worker] = Progress(push.block, push.step, push.work.position)
        if self._measured:
            before, sums = self._measured[push.worker], push.work.sums
            self._measured[push.worker] = before.after(sums.steps, sums.step_seconds)

    def note(
        self, push: Push, waits: Waits, refused: str | None, moved_bytes: tuple[int, int], *, dropped: bool = False
    ) -> None:
        """Remembers a push for the next report, and nothing else of it; the arguments are those of `count`."""
        now, (pulled, pushed) = self._clock(), moved_bytes
        seconds, sums = now - self._pushed_at[push.worker], push.work.sums
        self._pushes.append(
            PushReport(
                worker=push.worker,
                staleness=self.staleness(push),
                target_tokens=int(sums.target_tokens),
                seconds=seconds,
                wait_seconds=min(waits.others, seconds),  # it may have begun before the last push was taken in
                bytes_pulled=pulled,
                bytes_pushed=pushed,
                skipped_steps=int(sums.refused),
                compute_seconds=sums.step_seconds - sums.data_wait_seconds,
                data_wait_seconds=sums.data_wait_seconds,
                pull_seconds=sums.pull_seconds,
                push_seconds=sums.push_seconds,
                server_seconds=min(waits.servers, seconds),
                refused=refused,
                dropped=dropped,
            )
        )
        self._pushed_at[push.worker] = now

    def mean_share(self) -> float:
        """What staleness has left of the payloads since the last update: their weight over their whole weight."""
        return self.weight / self.whole_weight if self.whole_weight else 1.0

    def mean_steps(self) -> float:
        """Local steps of each worker in the payloads since the last update, the mean over all workers."""
        return self.sums.steps / self._workers

    def close(self, applied: bool, gradient_norm: float | None = None) -> Sums:
        """Ends what came since the last update, which has been tried; what that came to.

        Everything is counted before a report is made: its learning rate is that of now.

        Args:
          applied: whether the parameters have moved.
          gradient_norm: of the mean gradient before clipping; None where the servers move by something else.
        """
        sums = self.sums
        if applied:
            self.version += 1
            self.steps += self.mean_steps()
            if gradient_norm is not None and sums.squared_tokens:
                measured = (sums.target_tokens, gradient_norm**2, sums.squared_tokens, sums.squares)
                self._noise = self._noise.after(*measured)
        self._nothing_arrived()
        self._set_speeds(self._measured)
        return sums

    def _set_speeds(self, speeds: Sequence[Speed]) -> None:
        """Lets all workers go by these speeds until the next update.

        One may have done its next block before another begins it: that must not change what the other one does.
        """
        self._measured, self._speeds = list(speeds), list(speeds)

    def _nothing_arrived(self) -> None:
        self.arrived, self.sums = 0, NO_SUMS
        self.weight = self.whole_weight = self.unit = 0.0

    def report(
        self,
        sums: Sums,
        applied: bool,
        *,
        epoch: int,
        gradient_norm: float,
        learning_rate: float,
        momentum_norm: float | None,
    ) -> BlockReport:
        """The report of the update that `close` has ended, behind which the next one begins."""
        now, pushes = self._clock(), self._pushes
        refusals = [push.refused for push in pushes if push.refused and not push.dropped]
        seconds, self._pushes, self._reported_at = now - self._reported_at, [], now
        reported = {name: kind(getattr(sums, name)) for name, kind in _REPORTED.items()}
        reported["data_wait_seconds"] = min(sums.data_wait_seconds / self._workers, seconds)  # of one worker
        return BlockReport(
            update=self.version,
            epoch=epoch,
            gradient_norm=gradient_norm,
            learning_rate=learning_rate,
            seconds=seconds,
            skipped=None if applied else "; ".join(refusals) or "the gradient's norm was not finite",
            momentum_norm=momentum_norm,
            noise_scale_tokens=self._noise.tokens,
            pushes=tuple(pushes),
            is_virtual=False,
            **reported,
        )

    def counters(self) -> dict[str, Any]:
        """Everything that a resume needs, ready for JSON."""
        return {
            "version": self.version,
            "steps": self.steps,
            "phase_began": self.phase_began,
            "arrived": self.arrived,
            "sums": self.sums,
            "weight": self.weight,
            "whole_weight": self.whole_weight,
            "unit": self.unit,
            "noise": self._noise._asdict(),
            "speeds": self._measured,
            "workers": [worker._asdict() for worker in self.progress],
        }

    def restore(self, counters: Mapping[str, Any], phase_began: int) -> None:
        """Takes up the counters of as many workers or fewer or more.

        Args:
          counters: what `counters` returned; version 0.1 wrote neither `steps` nor `phase_began` nor `noise` nor
            `whole_weight` nor `unit` nor `speeds`.
          phase_began: what it is taken to be then.
        """
        self.version = counters["version"]
        self.progress = _progress_of(counters["workers"], self._workers)
        self.steps = counters.get("steps", float(max(each.step for each in self.progress)))
        self.phase_began = counters.get("phase_began", phase_began)
        self.arrived, self.sums = counters["arrived"], Sums(*counters["sums"])
        self.weight = counters["weight"]
        self.whole_weight, self.unit = counters.get("whole_weight", self.weight), counters.get("unit", 0.0)
        self._noise = NoiseScale(**counters.get("noise", {}))
        speeds = [Speed(*each) for each in counters.get("speeds", ())]
        if len(speeds) == len(self._measured):
            self._set_speeds(speeds)


def _progress_of(saved: Sequence[Mapping[str, Any]], workers: int) -> list[Progress]:
    """How far each worker has come; other numbers of workers than were saved begin the next epoch together.

    The readers' shards depend on the number of workers, so a position is worth nothing under another number.
    """
    found = [Progress(each["block"], each["step"], each["position"] and tuple(each["position"])) for each in saved]
    if len(found) == workers:
        return found
    epoch = max((each.position[0] for each in found if each.position), default=-1) + 1
    logging.info("Workers before: %d; now: %d. The readers begin epoch %d.", len(found), workers, epoch + 1)
    return [Progress(0, max(each.step for each in found), (epoch, *START[1:]))] * workers
