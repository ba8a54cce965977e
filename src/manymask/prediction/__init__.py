"""Use a trained model: the instances of images, and files of them."""

from manymask.prediction.background import work_beside as work_beside
from manymask.prediction.detectors import Detector as Detector
from manymask.prediction.exporting import export as export
from manymask.prediction.job import predict_files as predict_files
from manymask.prediction.model import Model as Model
from manymask.prediction.model import find_checkpoint as find_checkpoint
from manymask.prediction.model import load_model as load_model
from manymask.prediction.predicting import predict as predict
from manymask.prediction.views import TTA_FACTORS as TTA_FACTORS
from manymask.prediction.views import predict_tensor as predict_tensor
