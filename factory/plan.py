"""From checked settings to the parts of a run; whatever is wrong with them is told together, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory import config
from factory.endpoint import SOME_ENGINE, api_key, checked_endpoint, checked_endpoints
from factory.errors import ConfigError, near
from factory.generators.base import Generator, Grows
from factory.prompts import Templates
from factory.records import content_hash
from factory.scoring import GroupScorer, Scorer
from factory.selection import KeepRule
from factory.settings import GenerateSettings
from factory.sources import Source

ATTEMPTS_FOR_EACH = 60

# In the place of wrong settings, for finding what else is wrong.
_SOME: Mapping[str, Any] = {
    **dict.fromkeys(("attempts", "in_flight", "keep")),
    "n": 1,
    "seed": 0,
    "run": "some",
    "out": "some",
    "task": {},
    "source": {},
    "scorers": {},
    "sandbox": {},
    "endpoints": {},
    "budget": {},
    "model": {"name": "some", "path": "some"},
    "engine": SOME_ENGINE,
}


@dataclass
class Plan:
    """A run, ready to be started. `wanted` is None for every row of a source; `attempts` bounds the seeds tried.

    `endpoint_keys` are the keys of the endpoints beside the run's own engine, by name.
    """

    settings: GenerateSettings
    composed: Mapping[str, Any]
    generator: Generator
    scorers: Mapping[str, Scorer | GroupScorer]
    rule: KeepRule
    source: Source
    templates: Templates
    template_digest: str
    wanted: int | None
    attempts: int | None
    api_key: str
    endpoint_keys: Mapping[str, str]

    @property
    def task(self) -> str:
        return self.generator.settings.name

    def fate_key(self, identity: str, endpoints: Mapping[str, str]) -> str:
        """One hash of all that decides a record's fate; `n`, budgets, addresses and patience are not among it.

        `endpoints` are the identities of those beside the run's own engine, by name.
        """
        settings = self.settings
        others = {
            name: (identity, settings.endpoints[name].model.sampling.body(), settings.endpoints[name].model.prompt_form)
            for name, identity in endpoints.items()
        }
        return content_hash(
            settings.task,
            settings.source.model_dump(exclude={"limit"}),
            {name: dict(scorer) for name, scorer in settings.scorers.items() if scorer.get("enabled", True)},
            self.rule.text,
            settings.seed,
            settings.sandbox.model_dump(exclude={"slots"}),
            settings.model.sampling.body(),
            settings.model.prompt_form,
            self.template_digest,
            identity,
            *([identities] if (identities := self.scorer_identities()) else []),
            *([others] if others else []),
        )

    def scorer_identities(self) -> dict[str, Any]:
        """What the models of those scorers are that have their own, by the scorers' keys: a path alone does not say it."""
        return {key: scorer.identity for key, scorer in self.scorers.items() if hasattr(scorer, "identity")}


def make_plan(composed: Mapping[str, Any], problems: list[str]) -> Plan:
    """Raises `ConfigError` with every problem: those given, and all that are found here."""
    settings = _settings(composed, problems)
    if settings is None:
        raise ConfigError(*problems)
    templates = Templates()
    generator = _generator(settings, templates, problems)
    scorers, rules = _scorers(settings, templates, problems)
    rule = _rule(settings, scorers, rules, problems)
    source = Source(settings.source, settings.seed, getattr(generator, "seeds", None))
    if generator is not None:  # it may bring seeds of its own
        grows = isinstance(generator, Grows) and not source.named
        problems += generator.check(None if grows else _columns(source, problems))
    wanted, attempts = _bounds(settings, source, problems)
    key = api_key(settings.model, settings.engine, "", problems)
    keys = {
        name: api_key(place.model, place.engine, f"endpoints.{name}.", problems)
        for name, place in settings.endpoints.items()
    }
    config.fail_on(problems)
    assert generator is not None
    assert rule is not None
    names = [*generator.templates, *(name for scorer in scorers.values() for name in scorer.templates)]
    return Plan(
        settings=settings,
        composed=composed,
        generator=generator,
        scorers=scorers,
        rule=rule,
        source=source,
        templates=templates,
        template_digest=templates.digest(names),
        wanted=wanted,
        attempts=attempts,
        api_key=key,
        endpoint_keys=keys,
    )


def _settings(composed: Mapping[str, Any], problems: list[str]) -> GenerateSettings | None:
    data = {key: value for key, value in composed.items() if key != "hydra"}
    checked_endpoint(data, "", problems)
    checked_endpoints(data, problems)
    return config.validated(GenerateSettings, data, "", problems, _SOME)


def _columns(source: Source, problems: list[str]) -> set[str] | None:
    """The source's columns, its problems told; None where they are not known."""
    try:
        found = source.check()
        problems += found
        return None if found else source.columns()
    except ConfigError as error:
        problems += error.problems
        return None


def _generator(settings: GenerateSettings, templates: Templates, problems: list[str]) -> Generator | None:
    name = settings.task.get("generator")
    if not isinstance(name, str):
        problems.append("task.generator: must be the dotted name of a generator class")
        return None
    where = f"task.generator={name}"
    found = config.imported(name, "task.generator", problems)
    if lacks(found, ("Settings", "generate", "check", "fingerprint"), where, problems):
        return None
    checked = config.validated(found.Settings, settings.task, "task", problems)
    if checked is None:
        return None
    generator: Generator = found(checked, templates, settings.model.prompt_form)
    return None if lacks(generator, ("templates", "uses_sandbox", "carries_columns"), where, problems) else generator


def lacks(plug_in: Any, wanted: Sequence[str], where: str, problems: list[str]) -> bool:
    """Whether a plug-in (None: it could not be imported) has not all that it must have; tells what."""
    if plug_in is None:
        return True
    missing = [name for name in wanted if not hasattr(plug_in, name)]
    if missing:
        problems.append(f"{where}: has no {', no '.join(missing)}; see docs/plugging-in.md")
    return bool(missing)


def _scorers(
    settings: GenerateSettings, templates: Templates, problems: list[str]
) -> tuple[dict[str, Scorer | GroupScorer], dict[str, str]]:
    """The scorers that are enabled, and their keep rules by the keys that hold them."""
    scorers: dict[str, Scorer | GroupScorer] = {}
    rules: dict[str, str] = {}
    for key, data in settings.scorers.items():
        where, own = f"scorers.{key}", dict(data)
        name, enabled, keep = own.pop("scorer", None), own.pop("enabled", True), own.pop("keep", None)
        if not isinstance(enabled, bool):
            problems.append(f"{where}.enabled={enabled}: should be true or false")
        if not isinstance(name, str):
            problems.append(f"{where}.scorer: must be the dotted name of a scorer class (there is "
                            f"{', '.join(config.options('scorer'))} in conf/scorer)")  # fmt: skip
            continue
        found = config.imported(name, f"{where}.scorer", problems)
        method = "score_group" if hasattr(found, "score_group") else "score"
        if lacks(found, ("Settings", method), f"{where}.scorer={name}", problems):
            continue
        checked = config.validated(found.Settings, own, where, problems)
        if checked is None or not enabled:
            continue
        problems += _unknown_endpoints(checked, settings.endpoints, where)
        scorer: Scorer | GroupScorer = found(checked)
        if lacks(scorer, ("names", "templates", "uses_sandbox"), f"{where}.scorer={name}", problems):
            continue
        scorers[key] = scorer
        problems += scorer.check(where) if hasattr(scorer, "check") else []
        problems += [problem for template in scorer.templates for problem in templates.check(template)]
        if isinstance(keep, str):
            rules[f"{where}.keep"] = keep
        elif keep is not None:
            problems.append(
                f"{where}.keep={keep}: should be a rule, as {where}.keep='{scorer.names[0]} >= 0.5', or null"
            )
    return scorers, rules


def _unknown_endpoints(scorer: Any, endpoints: Mapping[str, Any], where: str) -> list[str]:
    """Names in a scorer's `endpoint` or `panel` that no endpoint has; None and nothing are the run's own model."""
    asked = {"endpoint": (getattr(scorer, "endpoint", None),), "panel": getattr(scorer, "panel", None) or ()}
    there = ", ".join(endpoints) or "none; model@endpoints.NAME.model=... engine@endpoints.NAME.engine=... makes one"
    return [
        f"{where}.{key}={name}: no such endpoint{near(name, endpoints)} (there is {there})"
        for key, names in asked.items()
        for name in names
        if name is not None and name not in endpoints
    ]


def _rule(
    settings: GenerateSettings,
    scorers: Mapping[str, Scorer | GroupScorer],
    rules: Mapping[str, str],
    problems: list[str],
) -> KeepRule | None:
    """The run's own rule, or what every scorer's says."""
    names = {name for scorer in scorers.values() for name in scorer.names}
    whole = settings.keep if settings.keep is not None else " and ".join(f"({rule})" for rule in rules.values())
    found: KeepRule | None = None
    for where, text in {**rules, "keep": whole}.items():
        try:
            found = KeepRule(text, names)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            return None
    return found


def _bounds(settings: GenerateSettings, source: Source, problems: list[str]) -> tuple[int | None, int | None]:
    if source.endless and settings.n is None and settings.attempts is None:
        problems.append(
            "n: this source never ends, so say how many records are wanted, as n=100, or how many seeds are tried, as "
            "attempts=100"
        )
        return None, None
    attempts = settings.attempts
    if attempts is None and source.endless and settings.n is not None:
        attempts = ATTEMPTS_FOR_EACH * settings.n
    return settings.n, attempts
