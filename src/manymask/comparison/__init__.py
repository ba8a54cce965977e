"""Which run is better, and whether that can be told."""

from manymask.comparison.compare import compare as compare
from manymask.comparison.experiment import experiment as experiment
