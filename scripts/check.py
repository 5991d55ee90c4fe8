"""Own model, traces and tasks held to the contract, in seconds and before anything is made: make check
STUDY=my.yaml

    python scripts/check.py --configfile my.yaml

Opens every local source that the config names: model folders (weights, tokenizer, the family's template and
tokens), traces (columns, types row by row, counts against the sizes, tokens), tasks. Shows one example as it
will be trained. Every fault is named at once, with its key and what to do. What comes from a hub is checked
when it is fetched; `make fetch-check` asks the hub.
"""

import sys
from pathlib import Path

from valley import contract, flags


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="as for snakemake")
    args = parser.parse_args()

    config = contract.study(args.configfile, sources=False)  # which are opened below
    found = contract.examined(config, lambda line: print(line, flush=True))
    for fault in found:
        print(f"FAIL  {fault}")
    if found:
        sys.exit(f"error: {len(found)} fault(s) in the study's own data, see above. Nothing was made")
    print("ok: the study's own data are what it counts on")


if __name__ == "__main__":
    main()
