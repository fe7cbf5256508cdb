"""Which records are kept: the run's own decision or a rule over all of them, and the best of n."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import orjson

from factory.export.load import Run
from factory.export.pool import Item, Pool
from factory.selection import Expression, KeepRule, Seen, Statistic

Statistics = Mapping[int, Mapping[str, float]]  # by run, by key


def decisions(
    pool: Pool, runs: Sequence[Run], rule: KeepRule | None, statistics: Statistics
) -> Iterator[tuple[int, str]]:
    """(n, reason) of every record that is not kept, in the order of the runs and their seeds.

    Two things only the whole run can decide: duplicates by what the generator calls the same, and (without a rule of
    the export's own) surplus beyond the records wanted.
    """
    accepted = [0] * len(runs)
    for item, _ in pool.left():
        kept, why = (item.kept, item.own_reason) if rule is None else _decided(item, rule, statistics[item.run])
        if kept:
            wanted = runs[item.run].wanted if rule is None else None
            keys = [f"{item.run}\x1f{key}".encode() for key in Seen.keys_of(item.mark)]
            if any(map(pool.knows, keys)):
                why = "duplicate: the same as an earlier record"
            elif wanted is not None and accepted[item.run] >= wanted:
                why = "surplus: enough records were there already"
            else:
                for key in keys:
                    pool.new(key)
                accepted[item.run] += 1
                continue
        yield item.n, why or "no reason given"


def _decided(item: Item, rule: KeepRule, statistics: Mapping[str, float]) -> tuple[bool, str]:
    scored = item.scored()
    values = {name: value for name, (value, _) in scored.items()}
    if not values and item.own_reason:
        return False, item.own_reason  # it was lost before anybody scored it
    kept, why = rule.decide_values({**values, **statistics}, {name: reason for name, (_, reason) in scored.items()})
    if kept is not None:
        return kept, why
    errors = orjson.loads(item.errors) if item.errors else {}
    said = next((f"{name}: {error}" for name, error in sorted(errors.items())), None)
    missing = ", ".join(sorted(rule.names - set(values))) or "a statistic of no record"
    return False, said or (f"keep: not scored by {missing}" if item.kept or not item.own_reason else item.own_reason)


def statistics_of(pool: Pool, runs: int, rule: KeepRule | None, names: set[str]) -> dict[int, dict[str, float]]:
    """The rule's statistics for each run over all of its records that have the score; none where no record has it."""
    found: dict[int, dict[str, float]] = {run: {} for run in range(runs)}
    if rule is None or not rule.statistics:
        return found
    expressions = {of: Expression(of, names) for of in sorted({statistic.of for statistic in rule.statistics})}
    pool.db.execute("CREATE TABLE figures (run INTEGER, of TEXT, value REAL)")
    for item, _ in pool.left():
        values = {name: value for name, (value, _) in item.scored().items()}
        rows = [(item.run, of, number) for of, expression in expressions.items()
                if (number := expression.value(values)) is not None]  # fmt: skip
        pool.db.executemany("INSERT INTO figures VALUES (?,?,?)", rows)
    pool.db.execute("CREATE INDEX figures_in_order ON figures (run, of, value)")
    for run in range(runs):
        for statistic in rule.statistics:
            value = _statistic(pool, run, statistic)
            if value is not None:
                found[run][statistic.key] = value
    pool.db.execute("DROP TABLE figures")
    return found


def _statistic(pool: Pool, run: int, statistic: Statistic) -> float | None:
    """Exact: quantiles by numpy's definition ("linear": between the two nearest values, by the distance to each)."""
    where = "FROM figures WHERE run=? AND of=?"
    count: int = pool.one(f"SELECT count(*) {where}", run, statistic.of)
    if not count:
        return None

    def at(place: int) -> float:
        return float(pool.one(f"SELECT value {where} ORDER BY value LIMIT 1 OFFSET ?", run, statistic.of, place))

    if statistic.name == "mean":
        values = pool.db.execute(f"SELECT value {where} ORDER BY value", (run, statistic.of))
        return math.fsum(value for (value,) in values) / count
    if statistic.name in ("min", "max"):
        return at(0 if statistic.name == "min" else count - 1)
    place = int(statistic.name[1:]) / 100 * (count - 1)
    below = math.floor(place)
    low, high, share = at(below), at(min(below + 1, count - 1)), place - below
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def surplus_of_groups(pool: Pool, per_group: int) -> Iterator[tuple[int, str]]:
    """All but the `per_group` answers to each prompt with the highest reward, the unrewarded ones last."""
    ranked = pool.db.execute(
        "SELECT n FROM (SELECT n, ROW_NUMBER() OVER (PARTITION BY rival ORDER BY reward DESC NULLS LAST, id, run, n) AS "
        "place FROM items WHERE step IS NULL AND unit=? AND rival IS NOT NULL) WHERE place > ? ORDER BY n",
        (pool.unit, per_group),
    )
    for (n,) in ranked:
        yield n, f"per_group: not among the best {per_group} answers to its prompt"
