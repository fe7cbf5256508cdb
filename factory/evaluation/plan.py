"""From checked settings to the parts of an evaluation; whatever is wrong with them is told together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from factory import config
from factory.endpoint import SOME_ENGINE, api_key, checked_endpoint
from factory.errors import ConfigError
from factory.evaluation.suite import Role, Suite
from factory.plan import lacks
from factory.prompts import Templates
from factory.records import content_hash
from factory.settings import Endpoint, EvaluateSettings
from factory.sources import Source

_SOME: Mapping[str, Any] = {
    **dict.fromkeys(("run", "out", "in_flight", "compare", "judge", "baseline")),
    "seed": 0,
    "suite": {},
    "source": {},
    "sandbox": {},
    "budget": {},
    "model": {"name": "some", "path": "some"},
    "engine": SOME_ENGINE,
}


@dataclass
class EvaluationPlan:
    """An evaluation, ready to be started. `endpoints` and `keys` are by role, for the roles that the suite asks."""

    settings: EvaluateSettings
    composed: Mapping[str, Any]
    suite: Suite
    templates: Templates
    template_digest: str
    endpoints: Mapping[Role, Endpoint]
    keys: Mapping[Role, str]

    def stage_key(self, role: Role, identity: str) -> str:
        """One hash of all that decides a stage's records, besides its items; addresses and patience are not in it."""
        settings = self.settings
        return content_hash(
            role,
            settings.suite,
            settings.seed,
            settings.sandbox.model_dump(exclude={"slots"}),
            self.endpoints[role].model.sampling.body(),
            self.template_digest,
            identity,
        )


def make_evaluation(composed: Mapping[str, Any], problems: list[str]) -> EvaluationPlan:
    """Raises `ConfigError` with every problem: those given, and all that are found here."""
    settings = checked_settings(composed, problems)
    templates = Templates()
    suite = _suite(settings, templates, problems)
    endpoints: dict[Role, Endpoint] = {}
    keys: dict[Role, str] = {}
    for role in suite.roles if suite is not None else ():
        endpoint = _endpoint(role, settings)
        if endpoint is None:
            problems.append(
                f"{role}: suite={settings.suite.get('name')} asks one: model@{role}.model=NAME engine@{role}.engine=vllm"
            )
            continue
        endpoints[role] = endpoint
        where = "" if role == "model" else f"{role}."
        keys[role] = api_key(endpoint.model, endpoint.engine, where, problems)
    if "baseline" in endpoints and endpoints["baseline"] == endpoints["model"]:
        problems.append(
            "baseline: is the evaluated model itself; name another one, as model@baseline.model=NAME, or give the answers "
            "to be beaten, as suite.reference='{{ response }}'"
        )
    config.fail_on(problems)
    assert suite is not None
    return EvaluationPlan(
        settings=settings,
        composed=composed,
        suite=suite,
        templates=templates,
        template_digest=templates.digest(suite.templates),
        endpoints=endpoints,
        keys=keys,
    )


def checked_settings(composed: Mapping[str, Any], problems: list[str]) -> EvaluateSettings:
    """The settings, with placeholders where something is wrong. Raises `ConfigError` where nothing can be checked."""
    data = {key: value for key, value in composed.items() if key != "hydra"}
    checked_endpoint(data, "", problems)
    for role in ("judge", "baseline"):
        if isinstance(data.get(role), Mapping):
            data[role] = dict(data[role])
            if isinstance(data[role].get("model"), Mapping) and data[role]["model"].get("path") is None:
                data[role] = None  # nobody was named; a suite that asks for one says so
                continue
            checked_endpoint(data[role], f"{role}.", problems)
    settings = config.validated(EvaluateSettings, data, "", problems, _SOME)
    if settings is None:
        raise ConfigError(*problems)
    return settings


def _endpoint(role: Role, settings: EvaluateSettings) -> Endpoint | None:
    if role == "model":
        return Endpoint(model=settings.model, engine=settings.engine)
    return settings.judge if role == "judge" else settings.baseline


def _suite(settings: EvaluateSettings, templates: Templates, problems: list[str]) -> Suite | None:
    name = settings.suite.get("suite")
    if not isinstance(name, str):
        problems.append("suite.suite: must be the dotted name of a suite class")
        return None
    found = config.imported(name, "suite.suite", problems)
    if lacks(found, ("Settings", "items", "answer", "summarise"), f"suite.suite={name}", problems):
        return None
    checked = config.validated(found.Settings, settings.suite, "suite", problems)
    source = Source(settings.source, settings.seed)
    if checked is None:
        return None
    suite: Suite = found(
        checked, templates, source, settings.seed, Endpoint(model=settings.model, engine=settings.engine)
    )
    problems += [problem for template in suite.templates for problem in templates.check(template)]
    if suite.needs_source:
        problems += source.check()
        if source.endless:
            problems.append(f"source.repeat=true: suite={suite.settings.name} needs a source that ends")
    problems += suite.check()
    return suite
