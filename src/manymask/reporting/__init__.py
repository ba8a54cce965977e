"""The report of a run: one HTML file that opens offline."""

from manymask.reporting.images import ViewedImage as ViewedImage
from manymask.reporting.images import choose_images as choose_images
from manymask.reporting.page import write_report as write_report
from manymask.reporting.run_report import report as report
