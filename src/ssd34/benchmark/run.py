"""A whole benchmark: several models, engines and thread counts in one run, in turns, or with
LoadGen one after the other; each in its own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from ssd34.benchmark.worker import StageTimes, Worker
from ssd34.errors import ModelError, OptionError
from ssd34.images.read import read_image
from ssd34.machine import Cpu, describe_cpu
from ssd34.runtime.engine import DEFAULT_ENGINE
from ssd34.runtime.timing import OFFLINE, SINGLE_STREAM, interleaved
from ssd34.text import counted
from ssd34.version import __version__
from ssd34.zoo.names import model_path

SCENARIOS = (SINGLE_STREAM, OFFLINE)

MAX_PICTURES = 64
"""Pictures kept in memory by each process; a run with more rounds takes the first ones again."""

PICTURES_A_THREAD = 4
"""In a round of the offline scenario, of a file that takes one picture at once."""

Combination = tuple[str, str, int]
"""A model, an engine and a number of threads."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """What to measure.

    Attributes:
        models: files or names; the first that can run is what the others are compared with.
        engines, threads: each model runs with each engine and each number of threads.
        pictures: files; none: a drawn one. The first `MAX_PICTURES` are used.
        scenario: single-stream: one picture after the other, as ``detect`` does. Offline: all at
            hand, as many a second as possible.
        rounds: timed rounds.
        warm_up: rounds before these.
        batch: offline: pictures in one run; None: as many as the file takes where that is a fixed
            number above 1, else one picture a thread, all threads busy.
    """

    models: Sequence[str]
    engines: Sequence[str] = (DEFAULT_ENGINE,)
    threads: Sequence[int] = (1,)
    pictures: Sequence[Path] = ()
    scenario: str = SINGLE_STREAM
    rounds: int = 30
    warm_up: int = 3
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise OptionError(
                f"unknown scenario {self.scenario!r}; expected one of {', '.join(SCENARIOS)}"
            )
        if not (self.models and self.engines and self.threads) or self.rounds < 1:
            raise OptionError("expected at least one model, engine, thread count and round")

    @property
    def used(self) -> list[Path]:
        """The pictures that are read."""
        return list(self.pictures[:MAX_PICTURES])

    @property
    def combinations(self) -> list[Combination]:
        """Every model with every engine and every number of threads."""
        return [(m, e, t) for m in self.models for e in self.engines for t in self.threads]

    def to_dict(self) -> dict[str, Any]:
        """What all models have in common, JSON-ready."""
        pictures = len(self.used) or "one random picture of 640 x 480"
        return {"scenario": self.scenario, "pictures": pictures}


@dataclass(frozen=True)
class RefusedModel:
    """A model that an engine cannot run here, or failed to run to the end, and why."""

    model: str
    engine: str
    threads: int
    reason: str


@dataclass(eq=False)
class Result:
    """What one model did, run by one engine with so many threads.

    Attributes:
        model, engine, threads: as in the plan, `engine` after the choice of ``auto``.
        facts: what its process said of it.
        stages: single-stream: of each picture, warm-up left out.
        chunks_ms: offline: milliseconds for each `chunk` pictures, warm-up left out.
        chunk, in_a_run: offline: pictures of a round, and of one run of the file.
        peak_memory: bytes; None: unknown, interrupted before the end, or the process failed then.
        graph_tail: share of the tail in the file's own time; None as above.
    """

    model: str
    engine: str
    threads: int
    facts: dict[str, Any]
    stages: list[StageTimes] = field(default_factory=list)
    chunks_ms: list[float] = field(default_factory=list)
    chunk: int = 0
    in_a_run: int = 1
    peak_memory: int | None = None
    graph_tail: float | None = None


@dataclass
class BenchmarkReport:
    """A benchmark, whole or `interrupted`; `refused` is what could not run."""

    plan: BenchmarkPlan
    cpu: Cpu
    results: list[Result]
    interrupted: bool = False
    refused: list[RefusedModel] = field(default_factory=list)


def benchmark(plan: BenchmarkPlan, *, progress: Progress = lambda *_: None) -> BenchmarkReport:
    """Measure everything in a plan, each model in its own process.

    An interruption (``KeyboardInterrupt``) ends the measuring; what was measured until then is in
    the report. Without a single whole round it is passed on. A model that an engine cannot run, or
    fails to run later, is left out.

    Raises:
        Ssd34Error: a model is missing, none can be run, or a picture cannot be read, which is found
            out before anything is measured.
    """
    check_pictures(plan, progress)
    with ExitStack() as stack:
        pairs: list[tuple[Worker, Result]] = []
        refused: list[RefusedModel] = []
        combinations = plan.combinations
        for number, combination in enumerate(combinations):
            progress("loading", number, len(combinations))
            batches = plan.scenario == OFFLINE
            if worker := open_worker(plan, combination, refused=refused, batches=batches):
                stack.callback(worker.close)
                model, _, threads = combination
                result = Result(model, worker.facts["engine"], threads, worker.facts)
                batch = _in_one_run(worker, plan)
                result.chunk, result.in_a_run = batch or PICTURES_A_THREAD * threads, batch or 1
                pairs.append((worker, result))
        report = BenchmarkReport(
            plan, describe_cpu(), [result for _, result in pairs], refused=refused
        )
        try:
            _take_turns(report, pairs, progress)
            for number, (worker, result) in enumerate(pairs):
                progress("memory and profile", number, len(pairs))
                if result not in report.results:
                    continue
                with suppress(ModelError):  # its times stay; what it did not say is unknown
                    result.peak_memory = worker.ask("memory")
                    if plan.scenario == SINGLE_STREAM:
                        result.graph_tail = worker.ask("tail_share")
        except KeyboardInterrupt:
            # Turns are compared round by round.
            if not all(result.stages or result.chunks_ms for result in report.results):
                raise
            report.interrupted = True
    return report


def check_pictures(plan: BenchmarkPlan, progress: Progress = lambda *_: None) -> None:
    """Decode each picture once: a broken one (ImageError) would end a long run at its turn."""
    for number, path in enumerate(plan.used):
        progress("pictures", number, len(plan.used))
        read_image(path)


def open_worker(
    plan: BenchmarkPlan, combination: Combination, *, refused: list[RefusedModel], batches: bool
) -> Worker | None:
    """The process of one combination of a plan; None where it cannot run, which is added to
    `refused`. Only with `batches` may a file be asked for several pictures in one run. Ssd34Error:
    the model is missing, a picture cannot be read, or nothing in the plan can run."""
    model, engine, threads = combination
    file = model_path(model)  # a wrong name is a mistake of the plan's, not an engine's

    def opened(*, streams: int) -> Worker:
        return Worker(
            model, engine=engine, threads=threads // streams, streams=streams, pictures=plan.used
        )

    streams = threads if plan.scenario == OFFLINE and plan.batch is None else 1
    try:
        worker = opened(streams=streams)
        try:
            _check_batch(file, worker.facts["batch"], plan, batches=batches)
        except BaseException:
            worker.close()
            raise
        if streams > 1 and _in_one_run(worker, plan):
            # Only the loaded file says that it takes several, and then one run has all threads.
            worker.close()
            worker = opened(streams=1)
        return worker
    except ModelError as error:
        refused.append(RefusedModel(*combination, str(error)))
        if len(refused) == len(plan.combinations):
            raise
        return None


def _check_batch(file: Path, fixed: int | None, plan: BenchmarkPlan, *, batches: bool) -> None:
    """Refuse a file whose fixed number of pictures at once is not the one that is measured.

    A picture alone would be repeated to fill the batch and cost as much as all of them.
    """
    if fixed is None:
        return
    if fixed > 1 and not batches:
        raise ModelError(
            f"{file}: takes {fixed} pictures at once, here they come one by one; export it with "
            "--batch 1 or dynamic, or measure it with --scenario offline and without --loadgen"
        )
    if plan.batch not in (None, fixed):
        raise ModelError(
            f"{file}: takes {counted(fixed, 'picture')} at once, not --batch {plan.batch}; leave "
            "--batch out, or export the file with --batch dynamic"
        )


def _in_one_run(worker: Worker, plan: BenchmarkPlan) -> int | None:
    """Offline: pictures in one run of the file; None: one, and several runs at the same time."""
    fixed: int | None = worker.facts["batch"]
    return plan.batch or (fixed if fixed and fixed > 1 else None)


def _take_turns(
    report: BenchmarkReport, pairs: list[tuple[Worker, Result]], progress: Progress
) -> None:
    """Every model's rounds, into its result.

    A model that fails goes to what is refused, with its own rounds: they would be compared with
    rounds that it did not take part in. ModelError where it was the last.
    """
    plan = report.plan
    total = plan.warm_up + plan.rounds
    measure = _detect_one if plan.scenario == SINGLE_STREAM else _detect_many

    def turn(worker: Worker, result: Result) -> Callable[[], None]:
        numbers = count(-plan.warm_up)

        def run() -> None:
            if result not in report.results:
                return
            try:
                measure(worker, result, next(numbers))
            except ModelError as error:
                worker.close()
                report.results.remove(result)
                refusal = RefusedModel(result.model, result.engine, result.threads, str(error))
                report.refused.append(refusal)
                if not report.results:
                    raise

        return run

    interleaved(
        {str(number): turn(*pair) for number, pair in enumerate(pairs)},
        rounds=plan.rounds,
        warm_up=plan.warm_up,
        progress=lambda done: progress("rounds", done, total),
    )


def _detect_one(worker: Worker, result: Result, number: int) -> None:
    stages = StageTimes(*worker.ask("detect", number=number))
    if number >= 0:
        result.stages.append(stages)


def _detect_many(worker: Worker, result: Result, number: int) -> None:
    chunk = result.chunk
    if result.in_a_run == chunk:
        taken = worker.ask("batch", first=number * chunk, count=chunk)
    else:
        taken = worker.ask("many", first=number * chunk, count=chunk, workers=result.threads)
    if number >= 0:
        result.chunks_ms.append(taken)


def benchmark_with_loadgen(
    plan: BenchmarkPlan,
    folder: Path,
    *,
    seconds: float,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Run LoadGen on everything in a plan, whose rounds are its fewest queries, for so many
    `seconds` or longer. Every model's logs get a folder of their own in `folder`, which exists.

    An interruption ends it; what was finished until then is returned. `progress` is called with the
    number of models done and of all. Errors as of `benchmark`.
    """
    plan = replace(plan, batch=None)  # LoadGen asks for one picture after the other
    combinations = plan.combinations
    refused: list[RefusedModel] = []
    results: list[dict[str, Any]] = []
    interrupted = False
    check_pictures(plan)
    try:
        for number, combination in enumerate(combinations):
            progress(number, len(combinations))
            opened = open_worker(plan, combination, refused=refused, batches=False)
            if opened is None:
                continue
            model, engine, threads = combination
            logs = folder / f"{number:02}-{Path(model).stem}-{engine}-{threads}"
            try:
                with closing(opened) as worker:
                    logs.mkdir(exist_ok=True)
                    summary = worker.ask(
                        "loadgen", folder=str(logs), scenario=plan.scenario,
                        min_seconds=seconds, min_queries=plan.rounds,
                        workers=threads if plan.scenario == OFFLINE else 1,
                    )  # fmt: skip
                    memory = worker.ask("memory")
            except ModelError as error:  # what the others did is kept
                refused.append(RefusedModel(*combination, str(error)))
                if len(refused) == len(combinations):
                    raise
                continue
            memory_mb = memory and round(memory / 1e6)
            results.append({
                "model": model, **worker.facts, "threads": threads, "peak_memory_mb": memory_mb,
                "logs": str(logs), "loadgen": summary,
            })  # fmt: skip
    except KeyboardInterrupt:
        if not results:
            raise
        interrupted = True
    return {
        "ssd34": __version__,
        "loadgen": True,
        **plan.to_dict(),
        "interrupted": interrupted,
        "cpu": describe_cpu().to_dict(),
        "results": results,
        "refused": [asdict(refusal) for refusal in refused],
    }
