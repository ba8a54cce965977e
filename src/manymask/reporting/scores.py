"""The scores over IoU thresholds, and how their intervals were made."""

from manymask.metrics import Evaluation
from manymask.reporting.charts import Chart, Frame, Line
from manymask.reporting.markup import format_count, format_percent

SIZES = {
    "small": "small (COCO)",
    "medium": "medium (COCO)",
    "large": "large (COCO)",
    "lower_tercile": "smallest third",
    "middle_tercile": "middle third",
    "upper_tercile": "largest third",
}


def describe_intervals(evaluation: Evaluation) -> str:
    """How the intervals were made, in a sentence."""
    intervals = evaluation.intervals
    if intervals is None:
        return "There are no intervals."
    return (
        f"Bars are {format_percent(intervals.level)} intervals: each score anew on {format_count(intervals.draws)} "
        f"sets of {format_count(intervals.num_units)} {intervals.unit}s, drawn with repetition."
    )


def draw_thresholds(evaluation: Evaluation) -> Chart:
    """AP(t) over t."""
    lines = []
    for label, key, color, dash in (("each image", "per_image", 2, "5 3"), ("all together", "pooled", 1, "")):
        values = getattr(evaluation.ap_t, key)
        intervals = [evaluation.get_interval(("ap_t", key, threshold)) for threshold in values]
        lines.append(Line(label, list(map(float, values)), list(values.values()), color, dash, True, intervals))
    frame = Frame("IoU threshold t", "AP(t)", (0.5, 0.95))
    return Chart("AP(t) over the IoU threshold t", frame, lines, "of all images together, and mean of each's own")
