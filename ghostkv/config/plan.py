"""Section `plan`: the machine that a run is planned for, where that is not the one that plans."""

from __future__ import annotations

from ghostkv.config.base import Section, setting


class Plan(Section):
    """The machine that `snakemake plan` looks at; it changes no result."""

    memory_gb: float | None = setting(
        None,
        "Memory that a job may hold, in GB, such as that of a cluster's node; null for this machine's.",
        gt=0,
        le=1e6,
    )
    disk_gb: float | None = setting(
        None, "Free disk, in GB; null for what is free where results go.", gt=0, le=1e9
    )
