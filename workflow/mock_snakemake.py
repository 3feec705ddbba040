"""Run one job's script in this process, so that a debugger can step into it.

    python -m pdb workflow/mock_snakemake.py sweep_layer layer=07
    python workflow/mock_snakemake.py capture_text text=qa_held_out_0 --configfile mine.yaml

The job's inputs must exist (`snakemake sketch` makes those of `sweep_layer`). It writes its outputs; what
it prints goes to the terminal instead of the log. Without wildcards, the rule's first job is taken.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def mock_snakemake(
    rule: str, wildcards: dict[str, str] | None = None, configfiles: tuple[str, ...] = (), targets=("all",)
) -> tuple[str, SimpleNamespace]:
    """The script of a job, and the object `snakemake` that it would see.

    Parameters
    ----------
    rule : str
        Name of the rule.
    wildcards : dict, optional
        Wildcards that the job must have; the first job of the rule that has them is taken.
    configfiles : tuple of str
        As for `snakemake --configfile`.
    targets : tuple of str
        What the workflow is asked for; the job must be among the jobs that make it.

    Raises
    ------
    SystemExit
        The workflow has no such job.
    """
    from snakemake.api import DAGApi, SnakemakeApi
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        OutputSettings,
        Quietness,
        ResourceSettings,
    )

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        flow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[Path(file) for file in configfiles]),
            snakefile=ROOT / "Snakefile",
        )
        dag: DAGApi = flow.dag(DAGSettings(targets=set(targets), forceall=True))
        workflow = dag.workflow_api._workflow
        workflow._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True, nolock=True)
        workflow._build_dag()
        jobs = [job for job in workflow.dag.jobs if job.rule.name == rule]
        wanted = wildcards or {}
        for job in sorted(jobs, key=lambda job: str(job.wildcards)):
            if all(getattr(job.wildcards, key, None) == value for key, value in wanted.items()):
                return _script(job), _view(job)
    known = sorted({job.rule.name for job in workflow.dag.jobs})
    raise SystemExit(f"no job of rule {rule} with wildcards {wanted}. Rules: {', '.join(known)}")


def _script(job) -> str:
    return str((Path(job.rule.snakefile).parent / job.rule.script).resolve())


def _view(job) -> SimpleNamespace:
    """What a script sees of its job, less the log: an empty one leaves the terminal alone."""
    return SimpleNamespace(
        input=job.input,
        output=job.output,
        params=job.params,
        wildcards=job.wildcards,
        threads=job.threads,
        resources=job.resources,
        log=[],
        rule=job.rule.name,
    )


def main() -> None:
    """Run the job that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rule")
    parser.add_argument("wildcards", nargs="*", metavar="name=value")
    parser.add_argument("--configfile", nargs="*", default=())
    chosen = parser.parse_args()
    wildcards = dict(item.split("=", 1) for item in chosen.wildcards)
    script, snakemake = mock_snakemake(chosen.rule, wildcards, tuple(chosen.configfile))
    for file in snakemake.output:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    runpy.run_path(script, init_globals={"snakemake": snakemake})


if __name__ == "__main__":
    main()
