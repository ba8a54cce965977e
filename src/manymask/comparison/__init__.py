"""Which run is better, and whether that can be told."""

from manymask.comparison.comparing import compare as compare
from manymask.comparison.experimenting import experiment as experiment
