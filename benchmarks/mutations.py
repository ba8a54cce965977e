"""Data sets of every format with one thing broken in a file: what reading them comes to.

python benchmarks/mutations.py --number 2000 [--formats coco via] [--first 0]: prints the number of cases by format and
outcome, and each case that is wrong. Ends with 1 if there is one.
"""

import argparse
import faulthandler
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.mutations import make_data_sets, run_cases

OUTCOMES = ("same", "told", "refused", "silent", "crashed", "hung")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--formats", nargs="*")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    # So that a number in a file that fills the memory shows as an error.
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    counts: dict[str, Counter[str]] = {}
    num_wrong, begin = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data_sets(Path(folder) / "data")
        data = {name: path for name, path in data.items() if not arguments.formats or name in arguments.formats}
        each = -(-arguments.number // len(data))
        for case in run_cases(Path(folder), data, range(arguments.first, arguments.first + each)):
            faulthandler.dump_traceback_later(60, exit=True)  # says where the next case hangs
            counts.setdefault(case.name.split()[0], Counter())[case.outcome] += 1
            if case.outcome in ("silent", "crashed", "hung"):
                num_wrong += 1
                print(f"{case.name}: {case.what}: {case.outcome} {case.detail}", flush=True)
    print(f"{'format':15}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES))
    for name, found in counts.items():
        print(f"{name:15}" + "".join(f"{found[outcome]:9}" for outcome in OUTCOMES))
    print(f"{sum(map(Counter.total, counts.values()))} cases, {num_wrong} wrong, {time.perf_counter() - begin:.0f} s")
    sys.exit(1 if num_wrong else 0)


if __name__ == "__main__":
    main()
