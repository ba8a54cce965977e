"""From a fingerprint to a plan, with the reason for each setting."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from manymask.inspection import Fingerprint
from manymask.modeling.catalogue import read_cards
from manymask.plan import AUTO, INHERITED, SCHEDULE, SETTINGS, Plan, change_plan, list_marked, parse_values
from manymask.planning.rules import RULES, Facts, Machine, Rule, StepCost

NO_RULE = "no rule"
"""The reason of a setting that no rule decides."""

YOURS = "--set"
"""The source of a setting that the user set, whatever the rule would say."""


@dataclass(frozen=True)
class Decision:
    """A setting, and why it has its value.

    Attributes:
        setting: Its name.
        value: Its value.
        because: What in the data or on the machine led to it.
        source: Where the rule is from.
    """

    setting: str
    value: Any
    because: str
    source: str


def plan_training(
    data: Fingerprint,
    machine: Machine,
    settings: Mapping[str, Any],
    measure: Callable[[Plan], StepCost],
    read_start: Callable[[str], Plan | None] = lambda weights: None,
) -> tuple[Plan, tuple[Decision, ...]]:
    """Decide every setting: the user's own, those that rules choose, and the rest, which rules leave alone.

    Args:
        data: The fingerprint of the training data.
        machine: Where training runs.
        settings: The user's own, whose values may be text; rules that come later see them.
        measure: Gives the cost of a training step with a plan whose schedule is still open.
        read_start: Gives the plan that weights, by the setting's value, were trained with; None where there is none.

    Raises:
        PlanError: A setting does not exist, is out of range, or settings do not fit each other.
    """
    own = parse_values(settings)
    values = dict(own)
    decisions = [Decision(name, value, "set by you", YOURS) for name, value in own.items()]
    facts = Facts(data, machine, values, own=own, shipped=read_cards())
    # The weights come first: most of what the network is like goes with them.
    decisions += _apply_rules(RULES[:1], facts, values, measure)
    if (start := read_start(values["weights"])) is not None:
        inherited = _inherit(start, own)
        values |= inherited
        decisions += [
            Decision(name, value, "as the weights were trained", "weights") for name, value in inherited.items()
        ]
    decisions += _apply_rules(RULES[1:], replace(facts, start=start), values, measure)
    plan = change_plan(Plan(recipe=AUTO, weights="none"), values)
    decided = {decision.setting for decision in decisions}
    rest = [
        Decision(name, getattr(plan, name), NO_RULE, "docs/settings.md") for name in SETTINGS if name not in decided
    ]
    return plan, (*decisions, *rest)


def fit_schedule(
    plan: Plan, data: Fingerprint, machine: Machine, own: Container[str], measure: Callable[[Plan], StepCost]
) -> Plan:
    """The plan of another recipe with as many steps as its ``minutes`` hold; the user's ``own`` settings stay."""
    schedule = list_marked(SCHEDULE)
    values = {name: getattr(plan, name) for name in SETTINGS if name not in schedule or name in own}
    facts = Facts(data, machine, values, own=own)
    _apply_rules([rule for rule in RULES if rule.setting in schedule], facts, values, measure)
    return plan.model_copy(update={name: values[name] for name in schedule})


def _apply_rules(
    rules: Sequence[Rule], facts: Facts, values: dict[str, Any], measure: Callable[[Plan], StepCost]
) -> list[Decision]:
    """Add to ``values``, which ``facts`` see as well, what each rule chooses for a setting that is not there yet."""
    decisions: list[Decision] = []
    for rule in rules:
        if rule.setting in values:
            continue
        if rule.needs_cost and facts.cost is None:
            facts = replace(facts, cost=measure(change_plan(Plan(recipe=AUTO, weights="none"), values)))
        values[rule.setting], because = rule.choose(facts)
        decisions.append(Decision(rule.setting, values[rule.setting], because, rule.source))
    return decisions


def _inherit(start: Plan, own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that weights were made for and that the user did not set.

    Anchors fit the scale that they were made with: with another one of the user's, or from images that were resized to
    one size, the rules find anchors.
    """
    is_other_scale = start.min_size or own.get("min_size") or "scale" in own
    left_out = {*own, *(("scale", "anchor_sizes") if is_other_scale else ())}
    return {name: getattr(start, name) for name in list_marked(INHERITED) if name not in left_out}


def list_decisions(decisions: Sequence[Decision]) -> list[tuple[str, str, str, str]]:
    """Setting, value, reason and source as text: the user's own, then the rules' in their order, then the rest."""
    return [
        (decision.setting, format_value(decision.value), decision.because, decision.source) for decision in decisions
    ]


def format_value(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, tuple):
        return ",".join(format_value(part) for part in cast(tuple[Any, ...], value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def write_explanation(decisions: Sequence[Decision]) -> str:
    """The plan as a Markdown table."""
    lines = ["# The plan, and why", "", "| setting | value | because | source |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in list_decisions(decisions)]
    return "\n".join(lines) + "\n"
