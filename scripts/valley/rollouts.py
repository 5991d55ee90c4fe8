"""RL's trainer as this study needs it: forward passes without columns that are all padding, and a vLLM that
can start.

TRL pads every response of a generation to the longest of all and runs old, reference and trained
probabilities over the padding. `trainer_class` leaves out, of each micro-batch, the columns that none of its
rows has a token in.
"""

SEQUENCES = 1024  # that vLLM has in hand at once; it refuses more than TRL's 4,096 tokens a pass


def trainer_class():
    """TRL's GRPOTrainer on trimmed micro-batches; `columns` counts [computed, of tokens] of this process,
    over all passes.

    The same probabilities and gradients: a masked column is attended by none, a position counts relative to
    others (rotary embeddings), and the values of masked columns, here 0, enter no loss.
    """
    import torch
    from trl import GRPOTrainer

    class Trimmed(GRPOTrainer):
        columns = (0, 0)

        def _get_per_token_logps_and_entropies(
            self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **options
        ):
            parts, step = [], batch_size or len(input_ids)
            for at in range(0, len(input_ids), step):
                ids, mask = input_ids[at : at + step], attention_mask[at : at + step]
                first, last = span(mask, logits_to_keep)
                computed, real = self.columns
                self.columns = (computed + len(ids) * (last - first), real + int(mask.sum()))
                cut = mask.shape[1] - last
                found = super()._get_per_token_logps_and_entropies(
                    model, ids[:, first:last], mask[:, first:last], logits_to_keep - cut, None, **options
                )
                parts.append(
                    [
                        None if value is None else torch.nn.functional.pad(value, (0, cut))
                        for value in found[:2]
                    ]
                    + [found[2]]
                )
            logps, entropies, losses = zip(*parts, strict=True)
            return (
                torch.cat(logps),
                None if entropies[0] is None else torch.cat(entropies),
                None if losses[0] is None else torch.stack(losses).mean(),
            )

    return Trimmed


def span(mask, completion: int) -> tuple[int, int]:
    """(first, end) of the columns that any row of an attention mask, (rows, prompt + completion), has a token
    in; at least one of the prompt and one of the `completion` columns.
    """
    used = mask.any(0).nonzero().flatten()
    start = mask.shape[1] - completion
    if not len(used):
        return start - 1, start + 1
    return min(int(used[0]), start - 1), max(int(used[-1]) + 1, start + 1)


def columns_counted(trainer) -> dict[str, int]:
    """Columns computed and tokens in them, of all processes since they started, for the record of a run."""
    import torch

    both = torch.tensor([trainer.columns], device=trainer.accelerator.device)
    computed, real = trainer.accelerator.gather(both).sum(0).tolist()
    return {"columns_computed": computed, "columns_of_tokens": real}


def engine_options(asked: dict, seed: int, rank: int, devices: int) -> dict:
    """TRL's options of its vLLM with this study's: as many sequences as it can start with (TRL asks for all
    responses of a card's step, 8,192 on one card), and the cell's seed where TRL gives the rank alone. No two
    ranks of a run and no two runs on as many devices share a seed.
    """
    return asked | {"max_num_seqs": min(asked["max_num_seqs"], SEQUENCES), "seed": seed * devices + rank}


def prepare_vllm(seed: int, rank: int, devices: int):
    """Have TRL start its vLLM by `engine_options`, without reports to its makers; not yet run on a GPU."""
    from valley import engines

    local = engines.vllm_options()  # before vLLM is imported
    from trl.generation import vllm_generation

    make = vllm_generation.LLM
    vllm_generation.LLM = lambda **asked: make(**engine_options(asked, seed, rank, devices) | local)
