"""A model, or predictions in files, scored on labelled images."""

from manymask.evaluation.evaluating import choose_folder as choose_folder
from manymask.evaluation.evaluating import evaluate as evaluate
