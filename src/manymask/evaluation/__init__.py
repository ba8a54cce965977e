"""A model, or predictions in files, scored on labelled images."""

from manymask.evaluation.data import choose_crowds as choose_crowds
from manymask.evaluation.data import read_data as read_data
from manymask.evaluation.data import read_validation as read_validation
from manymask.evaluation.evaluating import DRAWS as DRAWS
from manymask.evaluation.evaluating import choose_folder as choose_folder
from manymask.evaluation.evaluating import evaluate as evaluate
from manymask.evaluation.evaluating import summarize as summarize
from manymask.evaluation.evaluating import view_images as view_images
from manymask.evaluation.predictions import OneClassPredictions as OneClassPredictions
from manymask.evaluation.predictions import Predictions as Predictions
from manymask.evaluation.predictions import find_training_images as find_training_images
from manymask.evaluation.predictions import open_predictions as open_predictions
