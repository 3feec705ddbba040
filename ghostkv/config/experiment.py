"""The whole experiment as one validated object, and what its sections demand of one another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from ghostkv.config.bandwidth import Bandwidth
from ghostkv.config.base import Section, part
from ghostkv.config.benchmark import Benchmark
from ghostkv.config.calibrated import Calibrated
from ghostkv.config.capture import Capture, QueryBand
from ghostkv.config.certificates import Certificates
from ghostkv.config.decode import Decode
from ghostkv.config.frontier import Frontier
from ghostkv.config.hierarchy import Hierarchy
from ghostkv.config.historical import Historical
from ghostkv.config.messages import explain
from ghostkv.config.model import Model
from ghostkv.config.peers import Peers
from ghostkv.config.plan import Plan
from ghostkv.config.policy_checks import check_calibrated, check_dense_layers
from ghostkv.config.quality import Quality
from ghostkv.config.report import Report
from ghostkv.config.reproduce import Reproduce
from ghostkv.config.retrieval import Retrieval
from ghostkv.config.sketch import Sketch
from ghostkv.config.speed import Speed
from ghostkv.config.store import Store
from ghostkv.config.synthetic import Synthetic
from ghostkv.config.texts import ROLES, Texts
from ghostkv.config.trace import Trace
from ghostkv.config.words import read_yaml
from ghostkv.files.errors import ConfigError

# The default config has a thousand values, five deep.
_MOST_VALUES, _DEEPEST = 100_000, 32
# A threshold that is chosen on n queries spends 1 / (n + 1) of its target on the promise: here a quarter.
_QUERIES_BY_TARGET = 4.0

__all__ = ["Config", "load_config", "read_config"]


class Config(Section):
    """The whole experiment, one section per stage."""

    model: Model = part(Model)
    texts: Texts = part(Texts)
    capture: Capture = part(Capture)
    trace: Trace = part(Trace)
    sketch: Sketch = part(Sketch)
    frontier: Frontier = part(Frontier)
    certificates: Certificates = part(Certificates)
    calibrated: Calibrated = part(Calibrated)
    peers: Peers = part(Peers)
    hierarchy: Hierarchy = part(Hierarchy)
    decode: Decode = part(Decode)
    historical: Historical = part(Historical)
    synthetic: Synthetic = part(Synthetic)
    benchmark: Benchmark = part(Benchmark)
    speed: Speed = part(Speed)
    bandwidth: Bandwidth = part(Bandwidth)
    store: Store = part(Store)
    quality: Quality = part(Quality)
    retrieval: Retrieval = part(Retrieval)
    reproduce: Reproduce = part(Reproduce)
    plan: Plan = part(Plan)
    report: Report = part(Report)

    def text_names(self) -> dict[str, dict[str, Any]]:
        """Every text of the run by name, `{domain}_{role}_{number}`.

        Returns
        -------
        dict
            name -> {"domain", "role", "custom"}; `custom` is null for texts of resources/texts.yaml.
        """
        wanted: list[tuple[str, str, dict[str, Any] | None]] = []
        if self.capture.import_:
            wanted = [(item.domain, item.role, item.plain()) for item in self.capture.import_]
        else:
            for domain in self.texts.domains:
                for role in ROLES:
                    wanted += [(domain, role, None)] * getattr(self.texts.per_role, role)
            wanted += [(item.domain, item.role, item.plain()) for item in self.texts.custom]
        names: dict[str, dict[str, Any]] = {}
        for domain, role, custom in wanted:
            number = sum(entry["domain"] == domain and entry["role"] == role for entry in names.values())
            names[f"{domain}_{role}_{number}"] = {"domain": domain, "role": role, "custom": custom}
        return names

    def query_bands(self, role: str) -> list[QueryBand]:
        """Where the queries of a role's texts are sampled.

        A held-out text takes `capture.held_out_share` of them. Imported tensors hold every query. Where the folders whose
        thresholds are chosen on them would have too few for the least target of the frontier, more are drawn: every band's
        count grows alike, as far as the band goes.
        """
        bands = self.capture.query_bands
        if role == "held_out":
            return [_times(band, self.capture.held_out_share) for band in bands]
        folders = [one for one in self.capture.import_ or [] if one.role == role]
        if role != "threshold" or not folders:
            return bands
        start, targets = self.frontier.headline_start, self.frontier.targets.plain().values()
        late = sum(
            band.count * max(band.stop - max(band.start, start), 0) / (band.stop - band.start)
            for band in bands
        )
        grown = max(1.0, _QUERIES_BY_TARGET / min(map(min, filter(None, targets))) / (len(folders) * late))
        return [_times(band, grown) for band in bands]

    def trace_text(self, max_context: int | None = None) -> dict[str, dict[str, Any]]:
        """The text of the trace by name, with its `tokens` and `steps`; empty where tensors are imported.

        Parameters
        ----------
        max_context : int, optional
            Longest context that the model takes, in tokens.

        Raises
        ------
        ConfigError
            The model takes no context that long, more steps are asked for than there are tokens, or no domain
            and no file says which text.
        """
        if self.capture.import_:
            return {}
        trace = self.trace
        longest = max_context or trace.tokens or 2 * self.capture.tokens
        tokens = trace.tokens or min(2 * self.capture.tokens, longest)
        steps = trace.steps or tokens // 4
        if tokens > longest or steps >= tokens:
            raise ConfigError(
                f"config: trace has tokens: {tokens} and steps: {steps}, but {self.model.name} takes at most "
                f"{longest} tokens, and fewer steps than tokens can be recorded.\n"
                f"  Write: trace: {{tokens: {longest}, steps: {longest // 4}}}"
            )
        domain = trace.domain or next(iter(self.texts.domains), None)
        if trace.path is None and domain not in self.texts.domains:
            raise ConfigError(
                f"config: trace.domain is {domain}, which texts.domains does not list "
                f"({', '.join(self.texts.domains) or 'it is empty'}), and trace.path names no file.\n"
                "  Write: trace: {domain: mine, path: /data/long.txt}"
            )
        custom = trace.path and {"domain": domain or "mine", "role": "trace", "path": trace.path}
        return {
            f"{domain or 'mine'}_trace_0": {
                "domain": domain or "mine", "role": "trace", "custom": custom, "tokens": tokens, "steps": steps
            }
        }  # fmt: skip

    def check_policies(self, stage: Literal["quality", "retrieval"], layers: int) -> None:
        """Refuse a stage's policies whose thresholds no earlier stage makes, or whose dense layers a model of so many layers
        lacks.

        Called where the stage is asked for, so that a run of the frontier alone need not sweep for policies.

        Raises
        ------
        ConfigError
            With the line to write.
        """
        where, policies = f"{stage}.policies", getattr(self, stage).policies
        check_dense_layers(where, policies, layers)
        check_calibrated(where, policies, self.frontier)

    @model_validator(mode="after")
    def _context_holds_cold_keys(self) -> Config:
        frontier, bands = self.frontier, self.capture.query_bands
        exact, first = frontier.sinks + frontier.hot, bands[0].start
        if first < exact + frontier.top_k:
            raise ConfigError(
                f"config: capture.query_bands[0].start is {first}, but a query there sees too "
                f"few cold keys: frontier.sinks "
                f"({frontier.sinks}) + frontier.hot ({frontier.hot}) + frontier.top_k ({frontier.top_k}) = "
                f"{exact + frontier.top_k}. Accepted: a start of {exact + frontier.top_k} or more.\n"
                f"  Write: start: {exact + frontier.top_k}   (or less frontier.hot, or less frontier.top_k)"
            )
        if frontier.headline_start >= bands[-1].stop:
            raise ConfigError(
                f"config: frontier.headline_start is {frontier.headline_start}, but the last "
                f"query band stops at "
                f"{bands[-1].stop}. Accepted: at most {bands[-1].stop - 1}.\n"
                f"  Write: headline_start: {bands[-1].start}"
            )
        return self

    @model_validator(mode="after")
    def _calibrated_rules_are_swept(self) -> Config:
        on = list(self.frontier.grids())
        off = [rule for rule in self.calibrated.rules if rule not in on]
        if off:
            raise ConfigError(
                f"config: calibrated.rules names {off[0]}, which frontier.rules leaves out. Accepted: {', '.join(on)}.\n"
                f"  Write: rules: [{', '.join(rule for rule in on if rule in self.calibrated.rules) or on[0]}]"
            )
        if not getattr(self.frontier.targets, self.bandwidth.point):
            other = "fer" if self.bandwidth.point == "dropped_mass" else "dropped_mass"
            raise ConfigError(
                f"config: bandwidth.point is {self.bandwidth.point}, and frontier.targets.{self.bandwidth.point} is empty. "
                f"Accepted: a loss with a target.\n  Write: point: {other}"
            )
        return self

    @model_validator(mode="after")
    def _continuation_has_a_context(self) -> Config:
        tokens, continuation = self.capture.tokens, self.quality.continuation
        # Imported tensors have no model that could decode.
        if continuation > tokens // 2 and not self.capture.import_:
            raise ConfigError(
                f"config: quality.continuation is {continuation}, but texts have capture.tokens: {tokens}. Accepted: at "
                f"most {tokens // 2}, so that a context is left to choose from.\n  Write: continuation: {tokens // 8}"
            )
        return self

    @model_validator(mode="after")
    def _headline_codec_is_sketched(self) -> Config:
        headline, sizes = self.frontier.headline, {codec.name: codec.bits for codec in self.sketch.codecs}
        if headline.bits not in sizes.get(headline.codec, []):
            name = headline.codec if headline.codec in sizes else next(iter(sizes))
            accepted = "; ".join(
                f"{codec} at {', '.join(f'{one:g}' for one in bits)}" for codec, bits in sizes.items()
            )
            raise ConfigError(
                f"config: frontier.headline is {headline.codec} at {headline.bits:g} bits a coordinate, which "
                f"sketch.codecs does not make. "
                f"Accepted: {accepted}.\n  Write: headline: {{codec: {name}, bits: {sizes[name][0]:g}}}"
            )
        return self

    @model_validator(mode="after")
    def _every_role_has_a_text(self) -> Config:
        present = {entry["role"] for entry in self.text_names().values()}
        for role in ROLES:
            if role not in present:
                where = "capture.import" if self.capture.import_ else "texts"
                fix = (
                    f"add {{folder: /data/qkv, domain: mine, role: {role}}} to capture.import"
                    if self.capture.import_
                    else f"Write: per_role: {{{role}: 1}}   (under texts)"
                )
                raise ConfigError(
                    f"config: {where} has no text of role {role}. Accepted: at least one text "
                    f"each of {', '.join(ROLES)}, "
                    f"as no document may both choose a threshold and be measured by it.\n  {fix}"
                )
        return self


def _times(band: QueryBand, factor: float) -> QueryBand:
    """A band with so many times its queries, rounded up, as far as it has positions."""
    return band.model_copy(update={"count": min(math.ceil(factor * band.count), band.stop - band.start)})


def load_config(raw: Mapping[str, Any], where: str = "config") -> Config:
    """Validate a raw mapping, as YAML or `snakemake --config` gives it.

    Parameters
    ----------
    raw : mapping
        Sections by name. Missing keys take their defaults. Values of the command line are marked as such, see
        `ghostkv.config.words`.
    where : str
        How messages name the source.

    Raises
    ------
    ConfigError
        One message per fault, each naming key, value, accepted values and what to write.
    """
    try:
        return Config.model_validate(_bounded(raw, where))
    except ValidationError as error:
        raise ConfigError(explain(error, Config, where)) from None


def read_config(path: str | Path) -> Config:
    """Read and validate a YAML file; see `load_config`."""
    return load_config(read_yaml(path), where=str(path))


def _bounded(raw: Any, where: str) -> Any:
    """The config itself, once it is sure that walking it ends: a page of YAML anchors stands for more than memory holds."""
    left, waiting = _MOST_VALUES, [(raw, 0)]
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise ConfigError(
                f"{where} holds more than {_MOST_VALUES:,} values, or more than {_DEEPEST} inside one another. Accepted: at "
                "most so many, counted as if every YAML alias were written out.\n  Remove aliases (`*name`) of large anchors"
            )
        inner = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        )
        waiting += [(item, depth + 1) for item in inner]
    return raw
