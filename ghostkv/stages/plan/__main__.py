"""`python -m ghostkv.stages.plan`: fit the rates of a plan anew, on finished runs.

    python -m ghostkv.stages.plan results=config.yaml /data/other/results=other.yaml

Each run is its results folder and the config that it had. The more the runs differ in tokens, layers and width, the better
terms are told apart. This machine, on which they must have run, is measured beside.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ghostkv.config.words import read_yaml
from ghostkv.files.errors import ConfigError, GhostKVError
from ghostkv.sources.model_size import size_of
from ghostkv.stages.plan import rates
from ghostkv.stages.plan.fit import FinishedRun, fitted, write_rates
from ghostkv.stages.plan.machine import measure_machine
from ghostkv.stages.plan.workload import Workload
from ghostkv.stages.run import Run, resources_of

_ROOT = Path(__file__).parents[3]


def finished_run(named: str) -> FinishedRun:
    """A run from `RESULTS=CONFIG`; raises ConfigError where that is not what it says."""
    results, _, config = named.partition("=")
    if not config or not Path(results, "logs").is_dir():
        raise ConfigError(
            f"{named}: no finished run. Accepted: a results folder with logs, and its config.\n"
            "  Write: python -m ghostkv.stages.plan results=config.yaml"
        )
    run = Run.resolve(read_yaml(config), resources_of(_ROOT))
    folder = Path(results).parent / run.model_folder
    work = Workload(run.config, run.layers, size_of(run.model, folder), run.model.max_context)
    return FinishedRun(work, Path(results))


def main(arguments: list[str] | None = None) -> None:
    """Write `rates.py`."""
    parser = argparse.ArgumentParser(
        prog="python -m ghostkv.stages.plan", description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", nargs="+", metavar="RESULTS=CONFIG")
    chosen = parser.parse_args(arguments)
    try:
        found, disk = fitted([finished_run(run) for run in chosen.runs])
    except GhostKVError as error:
        parser.error(str(error))
    reference = {name: float(f"{value:.4g}") for name, value in measure_machine().items()}
    lacking = {rule: known for rule, known in rates.RATES.items() if rule not in found}
    write_rates(lacking | found, rates.DISK | disk, reference, Path(rates.__file__))


if __name__ == "__main__":
    main()
