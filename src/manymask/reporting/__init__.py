"""The report of a run: one HTML file that opens offline."""

from manymask.reporting.run_report import report as report
