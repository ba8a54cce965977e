"""Scores of predictions: metrics with intervals, and what went wrong. Knows masks and tables, but no model."""

from manymask.evaluation.diagnosis import FEW_UNITS as FEW_UNITS
from manymask.evaluation.diagnosis import explain_scores as explain_scores
from manymask.evaluation.error_split import ERROR_KINDS as ERROR_KINDS
from manymask.evaluation.error_split import ImageErrors as ImageErrors
from manymask.evaluation.error_split import split_errors as split_errors
from manymask.evaluation.intervals import compute_interval as compute_interval
from manymask.evaluation.intervals import draw_weights as draw_weights
from manymask.evaluation.matching import IOU_THRESHOLDS as IOU_THRESHOLDS
from manymask.evaluation.matching import ScoredImage as ScoredImage
from manymask.evaluation.matching import rank_predictions as rank_predictions
from manymask.evaluation.matching import score_image as score_image
from manymask.evaluation.precision import choose_score_threshold as choose_score_threshold
from manymask.evaluation.precision import compute_precision as compute_precision
from manymask.evaluation.precision import rank_images as rank_images
from manymask.evaluation.scores import format_scores as format_scores
from manymask.evaluation.scores import list_groups as list_groups
from manymask.evaluation.scores import summarize_headline as summarize_headline
from manymask.evaluation.scores import summarize_scores as summarize_scores
from manymask.evaluation.scores import write_scores as write_scores
from manymask.evaluation.tally import Tally as Tally
from manymask.evaluation.tally import make_tally as make_tally
