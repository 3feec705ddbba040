"""The jobs of a run as Snakemake plans them: rule, files by name, params, threads, and whether they run where it does; as JSON.

python tests/workflow/planned_jobs.py SNAKEFILE CONFIG FOLDER TARGET...
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings


def plain(files):
    return {
        name: path if isinstance(path, str) else [str(one) for one in path] for name, path in files.items()
    }


def main(snakefile: str, config: str, folder: str, *targets: str) -> None:
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api, contextlib.redirect_stdout(sys.stderr):
        workflow = api.workflow(
            ResourceSettings(cores=1),
            ConfigSettings(configfiles=[Path(config)]),
            snakefile=Path(snakefile),
            workdir=Path(folder),
        )
        planned = workflow.dag(DAGSettings(targets=set(targets), forceall=True))
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            planned.printrulegraph()
        found = [
            {
                "rule": job.rule.name,
                "inputs": plain(job.input),
                "outputs": plain(job.output),
                "params": dict(job.params.run),
                "threads": job.threads,
                "local": job.rule.name in workflow._workflow._localrules,
            }
            for job in workflow._workflow.dag.jobs
            if hasattr(job.params, "run")
        ]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
