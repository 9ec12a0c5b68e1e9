"""`python -m mars_megatron.platform`: the versions and devices of this machine, and the effect of each missing one."""

from __future__ import annotations

import argparse
import json
import sys
import warnings

from mars_megatron.platform.report import as_dict, as_text, inspect, usable


def main() -> int:
    """Print the report; exit code 1 if something is missing without which nothing runs."""
    parser = argparse.ArgumentParser(prog="python -m mars_megatron.platform", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is missing; the report says it
        findings = inspect()
    print(json.dumps(as_dict(findings), indent=2) if options.json else as_text(findings))
    return 0 if usable(findings) else 1


if __name__ == "__main__":
    sys.exit(main())
