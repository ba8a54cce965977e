"""Charts of the scores and of what goes wrong: AP(t), which classes are confused, precision, trust in scores."""

from collections.abc import Sequence

import numpy as np

from manymask.metrics import Evaluation
from manymask.reporting.charts import Chart, Frame, Line, Number
from manymask.reporting.markup import format_score

_MAX_CONFUSED = 20  # classes in the confusion matrix
_MAX_LINES = 6  # classes in the chart of precision over recall
_RECALLS = [step / 100 for step in range(101)]


def draw_thresholds(evaluation: Evaluation) -> Chart:
    """AP(t) over t."""
    lines = []
    for label, key, color, dash in (("each image", "per_image", 2, "5 3"), ("all together", "pooled", 1, "")):
        values = getattr(evaluation.ap_t, key)
        intervals = [evaluation.get_interval(("ap_t", key, threshold)) for threshold in values]
        lines.append(Line(label, list(map(float, values)), list(values.values()), color, dash, True, intervals))
    frame = Frame("IoU threshold t", "AP(t)", (0.5, 0.95))
    return Chart("AP(t) over the IoU threshold t", frame, lines, "of all images together, and mean of each's own")


def choose_confused(evaluation: Evaluation) -> dict[int, str]:
    """The classes with most instances by their row in the confusion matrix; none where there is one class only."""
    names, matrix = evaluation.confusion.names, np.asarray(evaluation.confusion.matrix)
    shown = np.sort(np.argsort(-matrix[:-1].sum(axis=1), kind="stable")[:_MAX_CONFUSED]).tolist()
    return {row: names[row] for row in shown} if len(names) > 1 else {}


def make_charts(evaluation: Evaluation) -> list[Chart]:
    """Precision over recall of all classes and of each, and over the score."""
    charts = (_draw_recall(evaluation), _draw_class_recall(evaluation), _draw_reliability(evaluation))
    return [chart for chart in charts if chart.lines]


def _draw_recall(evaluation: Evaluation) -> Chart:
    curves = evaluation.precision_recall.all
    dashes = {"0.90": "2 3", "0.75": "6 3", "0.50": ""}
    lines = [
        Line(f"IoU {threshold}", _RECALLS, _trim(curve), color, dashes[threshold])
        for color, threshold in ((3, "0.90"), (2, "0.75"), (1, "0.50"))
        if (curve := curves[threshold])
    ]
    return Chart("Precision over recall", Frame("recall", "precision", (0, 1)), lines, "masks, all classes")


def _trim(precisions: Sequence[Number]) -> list[Number | None]:
    """Nothing in place of the zeros beyond the highest recall that was reached."""
    last = max((i for i, value in enumerate(precisions) if value > 0), default=0)
    return [value if i <= last else None for i, value in enumerate(precisions)]


def _draw_class_recall(evaluation: Evaluation) -> Chart:
    """Curves at IoU 0.5 of the classes with most instances."""
    classes = evaluation.mask.per_class
    curves = {name: curves["0.50"] for name, curves in evaluation.precision_recall.per_class.items()}
    drawn = sorted((n for n in curves if curves[n]), key=lambda n: classes[n].num_instances, reverse=True)[:_MAX_LINES]
    dashes = ("", "6 3", "2 3")
    lines = [Line(name, _RECALLS, _trim(curves[name] or ()), 1 + i % 7, dashes[i % 3]) for i, name in enumerate(drawn)]
    note = "masks, IoU 0.50" + (f", the {_MAX_LINES} largest classes" if len(classes) > _MAX_LINES else "")
    frame = Frame("recall", "precision", (0, 1))
    return Chart("Precision over recall, by class", frame, lines if len(classes) > 1 else [], note)


def _draw_reliability(evaluation: Evaluation) -> Chart:
    """Precision against score in bins, above columns that show how many predictions each bin holds."""
    bins = [b for b in evaluation.reliability.bins if b.num_predictions]
    most = max((b.num_predictions for b in bins), default=0)
    notes = [
        f"scores {b.low:g} to {b.high:g}: {b.num_predictions} predictions, mean score {b.mean_score:.2f}, "
        f"precision {b.precision:.2f}"
        for b in bins
    ]
    x, y = [b.mean_score or 0.0 for b in bins], [b.precision for b in bins]
    error = format_score(evaluation.reliability.expected_calibration_error)
    return Chart(
        "Can the scores be believed?",
        Frame("score", "precision", (0, 1)),
        [Line("precision", x, y, 1, has_dots=True, notes=notes)],
        f"dotted: exactly right; grey: how many predictions; expected calibration error {error}",
        columns=[(b.low, b.high, 0.3 * b.num_predictions / most) for b in bins],
        has_diagonal=True,
    )
