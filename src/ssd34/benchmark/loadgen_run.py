"""LoadGen on several models, one after the other, each in its own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ssd34.benchmark.run import BenchmarkPlan, RefusedModel, check_pictures, open_worker
from ssd34.errors import ModelError
from ssd34.machine import describe_cpu
from ssd34.runtime.timing import OFFLINE
from ssd34.version import __version__


def benchmark_with_loadgen(
    plan: BenchmarkPlan,
    folder: Path,
    *,
    seconds: float,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Run LoadGen on everything in a plan.

    An interruption ends it; what was finished until then is returned.

    Args:
        plan: its rounds are LoadGen's fewest queries; its warm-up is not used.
        folder: exists; every model's logs get a folder of their own in it, numbered in order.
        seconds: LoadGen's shortest run.
        progress: called with the number of models done and of all.

    Raises:
        Ssd34Error: a model is missing, none can be run, or a picture cannot be read.
    """
    offline = plan.scenario == OFFLINE
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
                with opened as worker:
                    logs.mkdir(exist_ok=True)
                    summary = worker.ask(
                        "loadgen",
                        folder=str(logs),
                        scenario=plan.scenario,
                        min_seconds=seconds,
                        min_queries=plan.rounds,
                        workers=threads if offline else 1,
                    )
                    memory = worker.ask("memory")
            except ModelError as error:  # what the others did is kept
                refused.append(RefusedModel(*combination, str(error)))
                if len(refused) == len(combinations):
                    raise
                continue
            results.append(
                {
                    "model": model,
                    **worker.facts,
                    "threads": threads,
                    "peak_memory_mb": memory and round(memory / 1e6),
                    "logs": str(logs),
                    "loadgen": summary,
                }
            )
    except KeyboardInterrupt:
        if not results:
            raise
        interrupted = True
    return {
        "ssd34": __version__,
        "loadgen": True,
        "scenario": plan.scenario,
        "pictures": len(plan.used) or "one random picture of 640 x 480",
        "interrupted": interrupted,
        "cpu": describe_cpu().to_dict(),
        "results": results,
        "refused": [asdict(refusal) for refusal in refused],
    }
