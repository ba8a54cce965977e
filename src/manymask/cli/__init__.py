"""The command line."""

from manymask.cli.app import main as main
