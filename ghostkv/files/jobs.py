"""What a job of the workflow depends on, as a frozen dataclass: plain values in Snakemake's params, typed ones in the job.

A dataclass holds values and says where a run has them, so that a change of it shows in the params themselves: modules of jobs
import it for its type alone, and their fingerprints leave it out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter

from ghostkv.files.progress import progress
from ghostkv.files.provenance import fingerprint


@dataclass(frozen=True)
class Job:
    """Base of what a job depends on beside its input files.

    Attributes
    ----------
    code : str
        Fingerprint of the code that runs, for the metadata of what it writes.
    uses : tuple of str
        Modules that the job finds by name, such as selectors; the fingerprint covers them.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    # The function that does the work, with its module: function(job, inputs, outputs), and `threads` if it asks.
    call: ClassVar[str]
    # Names of the Parquet tables that it leaves in its folder.
    tables: ClassVar[tuple[str, ...]] = ()
    # Sections of the config whose values go into the fields of the same names.
    sections: ClassVar[tuple[str, ...]] = ()

    code: str = field(default="", kw_only=True)
    uses: tuple[str, ...] = field(default=(), kw_only=True)

    @classmethod
    def of(cls, run: Any) -> Self:
        """The job of a run; a subclass takes its rule's wildcards too, and gives what no section has under that name."""
        return cls.taken(run)

    @classmethod
    def taken(cls, run: Any, **given: Any) -> Self:
        """The job of a run with some fields given; each of the others is what the run or one section has under its name.

        Raises
        ------
        TypeError
            A field that two of them hold, or none: which one is meant must be given.
        """
        sources = [run, *(getattr(run.config, section) for section in cls.sections)]
        for name in (one.name for one in fields(cls) if one.default is MISSING and one.name not in given):
            holders = [source for source in sources if hasattr(source, name)]
            if len(holders) != 1:
                raise TypeError(
                    f"{cls.__name__}.{name}: held by {len(holders)} of run, {', '.join(cls.sections)}"
                )
            given[name] = getattr(holders[0], name)
        return cls.read(given)

    def params(self) -> dict[str, Any]:
        """Plain values for a rule, the fingerprint among them.

        One dict a rule: Snakemake compares the params of a rule as an unordered set of reprs.
        """
        module = self.call.rpartition(".")[0]
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        plain = _adapter(type(self)).dump_python(self, mode="json", by_alias=True, warnings=False)
        return {"job": name} | plain | {"code": fingerprint(module, *self.uses)}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """The job from plain values; nested mappings and lists become what the fields say.

        Raises
        ------
        pydantic.ValidationError
            A value is missing, of another type, or belongs to no field.
        """
        return _adapter(cls).validate_python(dict(plain))


@cache
def _adapter(cls: type[Job]) -> TypeAdapter:
    return TypeAdapter(cls)


def named(name: str) -> Any:
    """What a dotted name stands for, its module imported."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def together(jobs: Iterable[Job]) -> dict[str, Any]:
    """Plain values for a rule that does several jobs in one process, because each is shorter than its start.

    All have the inputs of the rule; each of the rule's outputs is a list, with the file of the first job first.
    """
    return {"each": [job.params() for job in jobs]}


def run(snakemake: Any) -> None:
    """Do the job of a rule: `params.run` says which, the rule's files are its inputs and outputs."""
    plain = dict(snakemake.params.run)
    inputs, outputs = dict(snakemake.input.items()), dict(snakemake.output.items())
    if "each" not in plain:
        _do(plain, inputs, outputs, snakemake.threads)
        return
    for turn, one in enumerate(progress(plain["each"], desc=snakemake.rule, unit="job")):
        _do(one, inputs, {name: files[turn] for name, files in outputs.items()}, snakemake.threads)


def _do(plain: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, str], threads: int) -> None:
    cls = named(plain.pop("job"))
    function = named(cls.call)
    more = {"threads": threads} if "threads" in inspect.signature(function).parameters else {}
    function(cls.read(plain), inputs, outputs, **more)
