"""The search for an int8 file that passes the gate.

First whole networks in int8, with each way of finding ranges. If none is accurate enough, the
layers that cost most accuracy per millisecond go back to float, the fewest that do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.search.gate import Criterion, Measurement, Trial, judge
from ssd34.setting_types import Count, check_fields
from ssd34.text import counted


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a search may take.

    Attributes:
        max_trials: most trials, those of earlier runs included.
        timeout: seconds of this run, without its calibration; no trial starts afterwards.
            None: no limit.
        exit: ``"first"``: the first accepted trial ends the search; ``"best"``: all ways of
            finding ranges are tried, and the most accurate accepted one is taken.
    """

    max_trials: Count = 20
    timeout: Annotated[float, Meta(gt=0)] | None = None
    exit: Literal["first", "best"] = "first"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended: the trial to publish, if any, all that count for it, in their order, and
    why it ended, as the end of a sentence."""

    accepted: Trial | None
    trials: tuple[Trial, ...]
    reason: str

    @property
    def best(self) -> Trial | None:
        """The accepted trial, else the most accurate of the fast enough ones, else of all."""
        if self.accepted:
            return self.accepted
        candidates = [trial for trial in self.trials if trial.fast] or list(self.trials)
        return min(candidates, key=lambda trial: trial.drop) if candidates else None


class _SpentError(Exception):
    """The budget is used up; the message says which part."""


@dataclass
class Search:
    """One search, which measures each choice of options once.

    Attributes:
        ranked_nodes: layers by what they cost per millisecond in a trial's file, worst first.
        earlier: trials of an earlier run, which are not measured again.
    """

    measure: Callable[[QuantizeOptions], Measurement]
    ranked_nodes: Callable[[Trial], Sequence[str]]
    criterion: Criterion
    budget: Budget
    finished: Callable[[Trial], None] = lambda _: None
    earlier: Sequence[Trial] = ()
    clock: Callable[[], float] = time.monotonic
    _known: dict[QuantizeOptions, Trial] = field(init=False, default_factory=dict)
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._known = {trial.options: trial for trial in self.earlier}
        self._started = self.clock()

    def run(self, candidates: Sequence[QuantizeOptions]) -> SearchOutcome:
        """Try the candidates in their order, then the fall-back to float. The budget counts all
        runs of this object together."""
        tried: list[Trial] = []

        def attempt(options: QuantizeOptions) -> Trial:
            trial = self._trial(options)
            if trial not in tried:
                tried.append(trial)
            return trial

        def outcome(reason: str) -> SearchOutcome:
            accepted = [trial for trial in tried if trial.accepted]
            best = min(accepted, key=lambda t: (len(t.options.float_nodes), t.drop), default=None)
            return SearchOutcome(best, tuple(tried), reason)

        try:
            for options in candidates:
                if attempt(options).accepted and self.budget.exit == "first":
                    return outcome("it passes the gate")
            if any(trial.accepted for trial in tried):
                return outcome("it passes the gate")
            fast = [trial for trial in tried if trial.fast]
            if not fast:
                return outcome("none is fast enough, and layers in float only make it slower")
            start = min(fast, key=lambda trial: trial.drop)
            return outcome(self._fall_back(start, attempt))
        except _SpentError as spent:
            if any(trial.accepted for trial in tried):
                return outcome(f"it passes the gate; the search ended because {spent}")
            return outcome(str(spent) if tried else f"its search did not begin, as {spent}")

    def _fall_back(self, start: Trial, attempt: Callable[[QuantizeOptions], Trial]) -> str:
        """Find the fewest of the ranked layers in float that are enough: double the number until
        the accuracy is, then halve the gap to the last number that was not."""
        options = start.options
        in_float = set(options.float_nodes)
        if not any(in_float < set(known.float_nodes) for known in self._known):
            self._check_budget()  # to rank takes long, and no trial could follow
        ranked = [n for n in self.ranked_nodes(start) if n not in in_float]

        def with_float(count: int) -> Trial:
            return attempt(options.replace(float_nodes=tuple(sorted({*in_float, *ranked[:count]}))))

        too_few, count = 0, 1
        while True:
            count = min(count, len(ranked))
            trial = with_float(count) if count > too_few else None
            if trial is None:
                return "not accurate enough with every convolution in float"
            if trial.accurate:
                break
            if not trial.fast:
                layers = counted(count, "layer")
                return f"with {layers} in float it is neither accurate nor fast enough"
            too_few, count = count, 2 * count
        enough = count
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            if with_float(middle).accurate:
                enough = middle
            else:
                too_few = middle
        if with_float(enough).fast:
            return f"it passes the gate with {counted(enough, 'layer')} in float"
        return f"accurate enough only with {counted(enough, 'layer')} in float, which is too slow"

    def _trial(self, options: QuantizeOptions) -> Trial:
        if options in self._known:
            return self._known[options]
        self._check_budget()
        number = len(self._known) + 1
        trial = judge(self.measure(options), options, number=number, criterion=self.criterion)
        self._known[options] = trial
        self.finished(trial)
        return trial

    def _check_budget(self) -> None:
        if len(self._known) >= self.budget.max_trials:
            trials = counted(self.budget.max_trials, "trial")
            raise _SpentError(f"the budget of {trials} is used up (--max-trials)")
        spent = self.clock() - self._started
        if self.budget.timeout is not None and spent >= self.budget.timeout:
            raise _SpentError(f"the {self.budget.timeout:g} seconds are used up (--timeout)")
