"""Every headline number: where it stands in ``evaluation.json``, its name, what it says and where it is shown."""

from dataclasses import dataclass

MetricPath = tuple[str, ...]

COCO, AP_T = "Average precision, as COCO's", "AP(t) = TP / (TP + FP + FN)"
DETECTION, OUTLINES, COUNTING = "Found and false", "Outlines", "Counting"


@dataclass(frozen=True)
class Metric:
    """A headline number.

    Attributes:
        path: Where it stands in ``evaluation.json``.
        label: As people call it.
        group: The heading that it stands under.
        hint: What it says in a few words, to stand beside the label and under the heading.
        meaning: What it says in a sentence, with what is good.
        higher_is_better: Whether a higher value is better; None where the best is in between.
        is_per_class: Whether each class has its own.
        formula: What is added to the label in a table without headings.
    """

    path: MetricPath
    label: str
    group: str
    hint: str
    meaning: str
    higher_is_better: bool | None = True
    is_per_class: bool = True
    formula: str = ""

    def of_class(self, name: str) -> MetricPath:
        """Where the value of one class stands."""
        return (self.path[0], "per_class", name, *self.path[1:])


METRICS = (
    Metric(("mask", "AP"), "mask AP", COCO, "mean over IoU 0.50 to 0.95",
           "COCO's average precision of masks, the mean over ten IoU thresholds and all classes; higher is better."),
    Metric(("mask", "AP50"), "mask AP50", COCO, "at mask IoU 0.50",
           "Average precision of masks at IoU 0.5, where an outline may be rough; higher is better."),
    Metric(("mask", "AP75"), "mask AP75", COCO, "at mask IoU 0.75",
           "Average precision of masks at IoU 0.75, where an outline must fit well; higher is better."),
    Metric(("box", "AP"), "box AP", COCO, "the same for boxes",
           "COCO's average precision of boxes, the mean over ten IoU thresholds and all classes; higher is better."),
    Metric(("box", "AP50"), "box AP50", COCO, "at box IoU 0.50",
           "Average precision of boxes at IoU 0.5; higher is better."),
    Metric(("box", "AP75"), "box AP75", COCO, "at box IoU 0.75",
           "Average precision of boxes at IoU 0.75; higher is better."),
    Metric(("ap_t", "pooled", "0.50"), "AP(0.5)", AP_T, "all images together",
           "Found objects among all found, false and missed ones at mask IoU 0.5, without ranking; higher is better.",
           is_per_class=False, formula=" = TP/(TP+FP+FN)"),
    Metric(("ap_t", "pooled", "0.75"), "AP(0.75)", AP_T, "",
           "AP(t) at mask IoU 0.75, where an outline must fit well; higher is better.", is_per_class=False),
    Metric(("ap_t", "pooled", "0.90"), "AP(0.9)", AP_T, "",
           "AP(t) at mask IoU 0.9, where an outline must fit very well; higher is better.", is_per_class=False),
    Metric(("detection", "F1"), "F1", DETECTION, "balance of the next two",
           "Harmonic mean of precision and recall at mask IoU 0.5; higher is better."),
    Metric(("detection", "precision"), "precision", DETECTION, "share of predictions that are right",
           "Share of the shown predictions that are right at mask IoU 0.5; higher is better."),
    Metric(("detection", "recall"), "recall", DETECTION, "share of instances that are found",
           "Share of the instances that are found at mask IoU 0.5; higher is better."),
    Metric(("panoptic", "PQ"), "PQ", OUTLINES, "panoptic quality: SQ times RQ",
           "Panoptic quality: how much is found times how well it is outlined; higher is better."),
    Metric(("panoptic", "SQ"), "SQ", OUTLINES, "mean IoU of what is found",
           "Segmentation quality: the mean IoU of what is found; higher is better."),
    Metric(("panoptic", "RQ"), "RQ", OUTLINES, "F1 of the same matches",
           "Recognition quality: F1 of the same matches; higher is better."),
    Metric(("panoptic", "mPQ_plus"), "mPQ+", OUTLINES, "mean over classes, pooled over images",
           "Mean of the classes' panoptic quality, each pooled over images; higher is better.", is_per_class=False),
    Metric(("aji", "AJI"), "AJI", OUTLINES, "aggregated Jaccard index, mean over images",
           "Area that is shared over all area, mean over the images; higher is better.", is_per_class=False),
    Metric(("aji", "AJI_plus"), "AJI+", OUTLINES, "with one-to-one matching",
           "AJI with instances and predictions paired one to one; higher is better.", is_per_class=False),
    Metric(("counts", "mean_error"), "mean count error", COUNTING, "predicted minus true instances, an image",
           "Predicted minus true instances, mean over the images; nearer to 0 is better.", higher_is_better=None),
    Metric(("counts", "mean_absolute_error"), "mean absolute count error", COUNTING, "regardless of sign",
           "By how much the number of instances is wrong, mean over the images; lower is better.",
           higher_is_better=False),
)  # fmt: skip
"""All of them, in the order in which they are shown."""


def _choose(labels: str) -> tuple[Metric, ...]:
    by_label = {metric.label: metric for metric in METRICS}
    return tuple(by_label[label] for label in labels.split(", "))


EVALUATED = _choose(
    "mask AP, mask AP50, mask AP75, box AP, box AP50, AP(0.5), AP(0.75), AP(0.9), precision, recall, F1, PQ"
)
"""In the table that ``manymask evaluate`` prints."""

REPORTED = tuple(metric for metric in METRICS if metric.label not in {"box AP50", "box AP75"})
"""In ``report.html``."""

COMPARED = tuple(metric for metric in REPORTED if metric.label not in {"SQ", "RQ", "mean count error"})
"""In the tables of a comparison."""

COMPARED_BY_CLASS = _choose("mask AP50, mask AP, F1")
"""In the tables of a comparison, of each class too."""

TOLD, TOLD_UNRANKED = _choose("mask AP50, mask AP, F1"), _choose("F1, PQ, AP(0.5)")
"""In the sentences on a pair of variants; the second where no scores rank the predictions, so that AP says little."""

LOGGED = _choose("mask AP, mask AP50, mask AP75, box AP, box AP50, box AP75")
"""In ``metrics.csv``, after each epoch of training."""
