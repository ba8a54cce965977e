"""Training: from a data set and a plan to a run folder."""

from manymask.training.run import plan_run as plan_run
from manymask.training.run import train as train
from manymask.training.run_folder import count_epochs as count_epochs
from manymask.training.run_folder import find_run as find_run
from manymask.training.run_folder import read_metrics as read_metrics
