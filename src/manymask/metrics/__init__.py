"""Scores of predictions: metrics with intervals, and what went wrong. Knows masks and tables, but no model."""

from manymask.metrics.catalogue import MetricPath as MetricPath
from manymask.metrics.diagnosis import FEW_UNITS as FEW_UNITS
from manymask.metrics.diagnosis import explain_scores as explain_scores
from manymask.metrics.error_split import split_errors as split_errors
from manymask.metrics.intervals import compute_interval as compute_interval
from manymask.metrics.intervals import draw_weights as draw_weights
from manymask.metrics.matching import ScoredImage as ScoredImage
from manymask.metrics.matching import rank_predictions as rank_predictions
from manymask.metrics.matching import score_image as score_image
from manymask.metrics.precision import choose_score_threshold as choose_score_threshold
from manymask.metrics.record import Evaluation as Evaluation
from manymask.metrics.summary import summarize_headline as summarize_headline
from manymask.metrics.summary import summarize_scores as summarize_scores
from manymask.metrics.tally import Tally as Tally
from manymask.metrics.tally import make_tally as make_tally
from manymask.metrics.tally import none_if_nan as none_if_nan
