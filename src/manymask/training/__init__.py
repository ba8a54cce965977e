"""Training: from a data set and a plan to a run folder."""

from manymask.training.run import plan_run as plan_run
from manymask.training.run import train as train
