"""From a fingerprint to a plan, with the reason for each setting."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from manymask.inspection import Fingerprint
from manymask.plan import AUTO, SETTINGS, Plan, change_plan, parse_values
from manymask.planning.machine import Machine, StepCost
from manymask.planning.rules import INHERITED, RULES, Facts, Rule

# Rules that fit a run into a time budget, whatever its recipe.
SCHEDULE = ("epochs", "epoch_steps")
NO_RULE = "no rule"
"""The reason of a setting that no rule decides."""


@dataclass(frozen=True)
class Decision:
    """A setting, and why it has its value.

    Attributes:
        setting: Its name.
        value: Its value.
        because: What in the data or on the machine led to it.
        source: Where the rule is from.
        is_yours: Whether the user set it, whatever the rule would say.
    """

    setting: str
    value: Any
    because: str
    source: str
    is_yours: bool = False


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
    values, decisions = _apply_rules(RULES, data, machine, own, measure, read_start)
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
    settings = {name: getattr(plan, name) for name in SETTINGS if name not in SCHEDULE or name in own}
    rules = [rule for rule in RULES if rule.setting in SCHEDULE]
    values, _ = _apply_rules(rules, data, machine, settings, measure, lambda weights: None)
    return plan.model_copy(update={name: values[name] for name in SCHEDULE})


def _apply_rules(
    rules: Sequence[Rule],
    data: Fingerprint,
    machine: Machine,
    own: Mapping[str, Any],
    measure: Callable[[Plan], StepCost],
    read_start: Callable[[str], Plan | None],
) -> tuple[dict[str, Any], list[Decision]]:
    values, cost, start = dict(own), None, None
    decisions = [Decision(name, value, "set by you", "--set", is_yours=True) for name, value in own.items()]
    for rule in rules:
        if rule.setting == "architecture" and (start := read_start(values["weights"])) is not None:
            inherited = _inherit(start, own)
            values |= inherited
            decisions += [
                Decision(name, value, "as the weights were trained", "weights") for name, value in inherited.items()
            ]
        if rule.setting in values:
            continue
        if rule.needs_cost and cost is None:
            cost = measure(change_plan(Plan(recipe=AUTO, weights="none"), values))
        value, because = rule.choose(Facts(data, machine, values, cost, own, start))
        values[rule.setting] = value
        decisions.append(Decision(rule.setting, value, because, rule.source))
    return values, decisions


def _inherit(start: Plan, own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that weights were made for and that the user did not set.

    Anchors fit the scale that they were made with: with another one of the user's, or from images that were resized to
    one size, the rules find anchors.
    """
    is_other_scale = start.min_size or own.get("min_size") or "scale" in own
    left_out = {*own, *(("scale", "anchor_sizes") if is_other_scale else ())}
    return {name: getattr(start, name) for name in INHERITED if name not in left_out}


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
