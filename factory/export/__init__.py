"""`export`: from runs to the rows that a trainer reads, step by step, the same bytes every time.

keep rule -> best of n -> (pairs or rankings) -> duplicates -> decontamination -> held-out
prompts -> mixture and budget. What a step loses is
written with its reason, and the funnel in the manifest counts it. Memory does not grow with the runs.

- sft: `messages`, scores, and the columns carried from the source.
- preference: `prompt`, `chosen`, `rejected`, their rewards, and who decided.
- reward: one row a prompt with its `responses` and their `rewards`, `ranks` or `attributes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from factory.config import fail_on
from factory.decontamination import Contamination
from factory.embedding import Embedder, open_embedder
from factory.errors import ConfigError, UserError
from factory.export.answers import AT_ONCE, crowded, largest_group
from factory.export.contamination import contaminated
from factory.export.duplicates import drop_duplicates, write_duplicates
from factory.export.hub import lacking, push
from factory.export.keep import Statistics, decisions, statistics_of, surplus_of_groups
from factory.export.load import Loaded, load, missing_runs
from factory.export.mixture import counted, hold_out, mix, parts_of
from factory.export.order import Reward, evaluated, least_of, order_by, reward_by
from factory.export.pairs import pairs
from factory.export.pool import Pool
from factory.export.rankings import rankings
from factory.export.settings import ExportSettings, one_of
from factory.export.tags import normalise
from factory.export.write import Workplace, Written, write_rows
from factory.journal import Journal
from factory.outputs import write_manifest
from factory.records import content_hash
from factory.selection import Expression, KeepRule
from factory.tokens import Tokens

__all__ = ["ExportSettings", "export"]


@dataclass(frozen=True)
class Rules:
    """The expressions of an export, parsed with the scores that there are."""

    keep: KeepRule | None
    reward: Reward
    order: Expression | None
    tokens: Tokens | None


def export(settings: ExportSettings) -> str:
    """Write the export and say, in a line, what was written.

    Raises `ConfigError` with every problem of the settings, and `UserError` where nothing is left to write.
    """
    fail_on([*missing_runs(settings), *settings.lacking(), *lacking(settings)])
    embedder = _embedder(settings)  # what is missing is told before the work is done
    contamination = _contamination(settings, embedder)
    with Workplace(settings.target) as work, Pool(work.folder) as pool:
        loaded = load(pool, settings)
        records = pool.count()
        tags = _tags(pool, loaded, settings, embedder)
        rules = _rules(pool, loaded, settings)
        statistics = statistics_of(pool, len(loaded.runs), rules.keep, loaded.scores)
        _select(pool, loaded, settings, rules, statistics)
        drop_duplicates(pool, settings, embedder, work.folder)
        if contamination is not None:
            pool.step("decontamination", contaminated(pool, contamination), sets=sorted(settings.decontamination.sets))
        if pool.count() == 0:
            raise UserError(_nothing(pool, settings))
        mixture = _divide(pool, loaded, settings, rules)
        written = write_rows(work.fresh, pool, loaded, settings)
        write_duplicates(pool, work.fresh / "duplicates.jsonl")
        if not sum(written.rows.values()):
            raise UserError(_nothing(pool, settings))
        manifest = _manifest(pool, loaded, settings, rules, statistics, written)
        write_manifest(work.fresh, manifest | {"records": records, "tags": tags, "mixture": mixture})
        if settings.map.draw and embedder is not None:
            _map(work, embedder, loaded, settings)
        _describe(work, written)
        work.publish()
    told = f"{manifest['rows']} rows of {settings.format} data in {settings.target}"
    if mixture is not None and (short := [name for name, part in mixture["parts"].items() if part["short"]]):
        told += (
            f"\nshort of what was wanted: {', '.join(short)} (mixture.max_repeats={settings.mixture.max_repeats}; the "
            "figures are in manifest.json)"
        )
    return told if settings.push_to_hub is None else f"{told}\n{push(settings.target, settings)}"


def _embedder(settings: ExportSettings) -> Embedder | None:
    """Loaded where a step needs it."""
    decontamination = settings.decontamination
    needed = (
        settings.duplicates.semantic.enabled
        or settings.map.draw
        or (settings.tags.normalise and settings.tags.eps > 0)
        or (decontamination.enabled and decontamination.by_meaning)
    )
    return open_embedder(settings.embedding) if needed else None


def _contamination(settings: ExportSettings, embedder: Embedder | None) -> Contamination | None:
    asked = settings.decontamination
    return Contamination(asked, embedder if asked.by_meaning else None) if asked.enabled else None


def _tags(pool: Pool, loaded: Loaded, settings: ExportSettings, embedder: Embedder | None) -> dict[str, Any] | None:
    if not settings.tags.normalise:
        return None
    if "tags" not in loaded.scores:
        raise ConfigError("tags.normalise=true: no record has tags; the run needs the scorer tags")
    return normalise(pool, embedder, settings.tags)


def _rules(pool: Pool, loaded: Loaded, settings: ExportSettings) -> Rules:
    """Raises `ConfigError` with all that does not fit the scores and the columns of these runs."""
    problems: list[str] = []
    names = loaded.scores

    def parsed(key: str, make: Any) -> Any:
        try:
            return make()
        except ValueError as error:
            problems.append(f"{key}: {error}")
        except ConfigError as error:
            problems.extend(f"{key}: {problem}" for problem in error.problems)

    keep = settings.keep
    rule = None if keep is None else parsed("keep", lambda: KeepRule(keep, names, whole=True))
    reward = parsed(f"reward={settings.reward}", lambda: reward_by(settings.reward, names))
    order = parsed(
        f"order={settings.order}", lambda: order_by(settings.order, names, lambda name: least_of(pool, name))
    )
    tokenizer = settings.tokenizer
    tokens = None if tokenizer is None else parsed(f"tokenizer={tokenizer}", lambda: Tokens(tokenizer))
    problems += _unknown_parts(pool, loaded, settings)
    for name in settings.ranking.attributes or ():
        if name not in names:
            problems.append(one_of("ranking.attributes", name, names, "score"))
    graded = settings.format == "reward" and settings.ranking.write == "attributes"
    if graded and not settings.ranking.attributes and not loaded.attributes:
        problems.append(
            "ranking.write=attributes: no reward model gave attributes; name scores: ranking.attributes=[judge]"
        )
    fail_on(problems)
    return Rules(rule, reward, order, tokens)


def _unknown_parts(pool: Pool, loaded: Loaded, settings: ExportSettings) -> list[str]:
    by = settings.mixture.by
    columns = {"run", "task", "model", *loaded.meta, *loaded.scores}
    if by not in columns:
        return [one_of("mixture.by", by, columns, "column")]
    there = set(parts_of(pool, settings, loaded.runs, "1"))
    return [one_of("mixture.weights", name, there, by) for name in settings.mixture.weights if name not in there]


def _select(pool: Pool, loaded: Loaded, settings: ExportSettings, rules: Rules, statistics: Statistics) -> None:
    """The steps that decide which records and which answers."""
    if rules.reward.expression is not None and (settings.per_group or settings.format != "sft"):
        pool.fill("reward", evaluated(pool, rules.reward.expression))
    if rules.order is not None:
        pool.fill("place", evaluated(pool, rules.order))
    lost = decisions(pool, loaded.runs, rules.keep, statistics)
    if settings.format == "sft":
        pool.step("keep", lost)
        if settings.per_group is not None:
            pool.step("per_group", surplus_of_groups(pool, settings.per_group))
    else:
        # What failed is an answer to compare with; what was never judged, or is there already, is none.
        pool.mark(lost)
        pool.step("keep", _no_answers(pool))
        if largest_group(pool) > AT_ONCE:
            pool.step("crowded", crowded(pool))
        make = pairs if settings.format == "preference" else rankings
        pool.assemble("pairs" if settings.format == "preference" else "rankings", make(pool, settings, rules.reward))


def _no_answers(pool: Pool) -> Any:
    for item, _ in pool.left():
        if item.rival is None or item.own_reason.startswith(("duplicate: ", "surplus: ")):
            yield item.n, item.own_reason or "no answer of an assistant, or no score, to compare"


def _divide(pool: Pool, loaded: Loaded, settings: ExportSettings, rules: Rules) -> dict[str, Any] | None:
    """Held-out prompts, and the parts of the rest."""
    if rules.tokens is not None:
        pool.fill("tokens", counted(pool, rules.tokens))
    if settings.held_out:
        hold_out(pool, settings.held_out, settings.seed)
    return mix(pool, settings, loaded.runs)


def _manifest(
    pool: Pool, loaded: Loaded, settings: ExportSettings, rules: Rules, statistics: Statistics, written: Written
) -> dict[str, Any]:
    """What was done, without times: the same export gives the same bytes."""
    tokens = pool.one("SELECT ifnull(sum(tokens * copies), 0) FROM items WHERE step IS NULL AND unit=?", pool.unit)
    return {
        "format": settings.format,
        "rows": sum(written.rows.values()),
        "splits": dict(written.rows),
        "runs": [run.name for run in loaded.runs],
        "models": sorted({run.model for run in loaded.runs}),
        "configs": [content_hash(run.description) for run in loaded.runs],
        "keep": settings.keep,
        "statistics": {run.name: _by_name(statistics[number]) for number, run in enumerate(loaded.runs)},
        "order": rules.order.text if rules.order is not None else None,
        "reward": rules.reward.text,
        "per_group": settings.per_group,
        "max_pairs": settings.max_pairs,
        "min_gap": settings.min_gap,
        "pairs": settings.pairs.model_dump(),
        "ranking": settings.ranking.model_dump(),
        "held_out": settings.held_out,
        "seed": settings.seed,
        "tokens": {
            "total": tokens,
            "counted_by": "an estimate: four bytes a token"
            if rules.tokens is None
            else f"the tokenizer of {settings.tokenizer}",
        },
        "funnel": pool.funnel,
    }


def _by_name(found: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(found.items()))


def _describe(work: Workplace, written: Written) -> None:
    """Card and report, from what was written."""
    from factory.export.card import write_card
    from factory.outputs import read_manifest
    from factory.report.selection import write_selection_report

    write_card(work.fresh, read_manifest(work.fresh), written.schema)
    write_selection_report(work.fresh)


def _map(work: Workplace, embedder: Embedder, loaded: Loaded, settings: ExportSettings) -> None:
    from factory.report.map import make_map, topics_of

    def topics(ids: set[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for run in loaded.runs:
            with Journal(run.folder / "journal.db") as journal:
                found |= topics_of((record for _, record, _ in journal.plain_records(run.config)), ids)
        return found

    asked = settings.map
    make_map(work.fresh, embedder, model=settings.embedding.model, most=asked.most, layout=asked.layout, about=topics)


def _nothing(pool: Pool, settings: ExportSettings) -> str:
    runs = "run=" + ",".join(folder.name for folder in settings.folders)
    worst = max(pool.funnel, key=lambda step: step["in"] - step["out"])
    most = next(iter(worst["reasons"]), "")
    told = f"most were lost at the step {worst['step']}: {most[:200]}" if most else "there are no records"
    if settings.format == "sft":
        return f"{runs} has no kept records under this rule ({told}); see {settings.folders[0]}/report.html"
    kind = "pairs" if settings.format == "preference" else "rankings"
    return (
        f"{runs} holds no {kind} ({told}). A pair needs a kept answer and a worse one to the same prompt, with rewards more than "
        f"min_gap={settings.min_gap:g} apart. task=code makes them with task.alternatives or task.repairs above 0, tasks "
        "that answer a prompt several times with task.answers above 1."
    )
