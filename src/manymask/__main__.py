"""``python -m manymask`` is the command ``manymask``."""

from manymask.cli.app import main

if __name__ == "__main__":  # processes that load images import this file anew
    main()
