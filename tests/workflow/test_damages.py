"""A slice of what `make damages` does to all artefacts: one damage to each sort of file, the kinds in turn."""

from tests.workflow.conftest import STAGES
from tests.workflow.damages import KINDS, REFUSED, SAME, damages, planned, readers, tried

# They train or run a model. Where damage changes nothing for a job, it does all of its work.
LONG = {"calibrate_layer", "capture_text", "trace_text", "run_historical"}


def test_no_damage_to_an_artefact_goes_unseen(project):
    jobs = planned(project.root / "Snakefile", project.folder, *STAGES)
    by_group = {}
    for one in damages(readers(jobs, project.folder, without=LONG)):
        by_group.setdefault(one.group, {}).setdefault(one.kind, one)
    chosen = [
        kinds.get(KINDS[number % len(KINDS)], kinds["flip"]) for number, kinds in enumerate(by_group.values())
    ]
    found = tried(chosen, jobs, project.copied_run().folder)
    assert len(found) > 15
    assert [(one, said) for one, said in found if said not in (REFUSED, SAME)] == []
    assert sum(said == REFUSED for _, said in found) > 0.8 * len(found)
