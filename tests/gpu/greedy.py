"""Token ids of greedy responses by one of the project's engines, for tests that look closer than at texts.

python tests/gpu/greedy.py <model> <prompts.json: lists of ids> <engine> <precision> <tokens> <out.json>
"""

import json
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from valley import engines, prompts


def main():
    model, asked, engine, precision, tokens, out = sys.argv[1:]
    args = Namespace(model=Path(model), precision=precision, temperature=0.0, top_p=1.0, max_context=1024, seed=0,
                     tensor_parallel=1, stop_tokens=[])  # fmt: skip
    run, _ = engines.ENGINES[engine](args, prompts.load_tokenizer(model))
    found = [ids for ids, _ in run(json.loads(Path(asked).read_text()), 0, int(tokens))]
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
