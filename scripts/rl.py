"""Continue a model with RL: TRL's GRPOTrainer, rewarded by the study's own grader, one cell.

Reward 1 when the response ended by itself and its final answer equals the gold answer, else 0: the headline
grade of valley/grading.py, the same that evaluation uses. An answer that only repeats a formula of the
problem gets none.

    python scripts/rl.py --model models/S/seed0 --problems data/rl/chain.parquet --out /tmp/cell/model \\
        --record /tmp/cell/train.json --curve /tmp/cell/curve.parquet --lr 3e-4 --steps 40 --prompts 12 \\
        --rollouts 8 \\
        --minibatch 12 --device-batch 96 --max-new-tokens 224 --save-every 10 --seed 0

A step samples `--prompts` × `--rollouts` responses and makes prompts / minibatch updates (1: on-policy). TRL
counts updates, the paper's verl counts steps; flags and the curve count steps. Weights of every
`--save-every`-th step stay under `checkpoints/`: they are where a killed run continues, and what
export_step.py publishes as cells `…+rl@step`.

Departs from the paper: TRL in place of verl; what the paper leaves open follows SimpleRL-Zoo
(docs/decisions.md).
"""

import functools
import time
from pathlib import Path

from valley import chunks, environment, equality, flags, golds, grading, prompts, records, thoughts


def parse(arguments=None):
    parser = flags.parser(__doc__)
    parser.add_argument("--model", required=True, type=Path, help="folder of the start model")
    parser.add_argument("--problems", required=True, type=Path, help="RL problems (parquet: problem, answer)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the trained model")
    parser.add_argument("--record", required=True, type=Path, help="train.json to write")
    parser.add_argument("--curve", required=True, type=Path, help="learning curve to write (parquet)")
    parser.add_argument("--seed", type=int, default=0, help="drives the order of problems and the sampling")
    parser.add_argument(
        "--stop-tokens", nargs="*", default=[], help="tokens that end a response, beside the end token"
    )
    flags.add(parser, flags.RL)
    flags.add_prompt(parser)
    flags.add_answer(parser)
    return parser.parse_args(arguments)


def trl_batching(
    prompts: int, rollouts: int, minibatch: int, devices: int, device_batch: int
) -> dict[str, int]:
    """The paper's step in TRL's terms: every TRL step is one update of `minibatch` × `rollouts` responses.

    `steps_per_generation` counts micro-batches between two generations, `updates` TRL steps in one of ours.
    """
    responses, update = prompts * rollouts, minibatch * rollouts
    if prompts % minibatch or update % (devices * device_batch):
        records.fail(
            f"--prompts {prompts} --rollouts {rollouts} --minibatch {minibatch} --device-batch {device_batch}",
            f"do not divide over {devices} device(s)",
            "minibatch must divide prompts, and devices × device-batch must divide minibatch × rollouts",
        )
    return {
        "per_device_train_batch_size": device_batch,
        "gradient_accumulation_steps": update // (devices * device_batch),
        "steps_per_generation": responses // (devices * device_batch),
        "num_generations": rollouts,
        "updates": prompts // minibatch,
    }


def settings(args) -> dict:
    """The arguments that say of which work a run is: without stop tokens, listed answers, passes by tokens or
    responses ahead, or another attention than torch's, as before there were any.
    """
    younger = {name: flags.RL[name].default for name in ("device_tokens", "rollouts_ahead", "attention")}
    younger |= {"stop_tokens": [], "answers": []}
    unsaid = (name for name, before in younger.items() if getattr(args, name) == before)
    return records.settings(args, *unsaid)


def make_reward(
    ends: list[int],
    comparer: equality.Comparer,
    form="box",
    tags=thoughts.THINK,
    tokenizer=None,
    answers: tuple[str, ...] = (),
):
    """The reward function for GRPOTrainer: the headline grade of each completion, 1.0 or 0.0; one of the ids
    `ends` ends it, as in evaluation.

    The data set's columns `answer`, `problem` and those of the gold's rules come with each completion. With a
    `tokenizer` the ids are decoded here, or tags of a thought that are special tokens would be lost.
    `answers` are those that the config lists for the problems.
    """

    def reward(completions, completion_ids, answer, problem=None, **columns):
        ended = [len(ids) > 0 and ids[-1] in ends for ids in completion_ids]
        texts = [completion[0]["content"] for completion in completions]
        if tokenizer is not None:
            texts = chunks.decoded(tokenizer, completion_ids, tags)
        rules = [
            golds.rules({name: columns[name][at] for name in golds.COLUMNS if columns.get(name)})
            for at in range(len(texts))
        ]
        responses = [
            grading.Case(text, "stop" if end else "length", *asked, answers)
            for text, end, *asked in zip(
                texts, ended, answer, problem or [""] * len(texts), rules, strict=True
            )
        ]
        grades = grading.grade(responses, comparer, paper=False, form=form, tags=tuple(tags))
        return [float(grade["correct"]) for grade in grades]

    return reward


def make_config(args, batching: dict[str, int], updates: int, checkpoints: Path, ends: list[int]):
    """TRL's GRPOConfig for the protocol of `args`, batches split by `trl_batching`.

    TRL's `max_steps` and `save_steps` count updates, so both are the paper's steps times `updates`. With vLLM
    TRL would by default weigh each sample by the ratio of both engines' sequence probabilities, summed over
    all its tokens, and drop those beyond a bound: at 8,192 tokens most of the long ones, a length bias
    exactly where claim C6 is decided. It is off.
    """
    import torch
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(checkpoints),
        seed=args.seed,
        data_seed=args.seed,
        use_cpu=not torch.cuda.is_available(),
        learning_rate=args.lr,
        lr_scheduler_type=args.schedule,
        warmup_steps=args.warmup,
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        optim="adamw_torch_fused" if not args.deepspeed else "adamw_torch",
        deepspeed=args.deepspeed,
        max_steps=args.steps * updates,
        **batching,
        max_completion_length=args.max_new_tokens,
        temperature=args.temperature,
        top_p=1.0,
        top_k=0,
        min_p=None,
        repetition_penalty=1.0,
        beta=args.kl,
        use_bias_correction_kl=False,
        epsilon=args.clip,
        entropy_coef=args.entropy,
        loss_type=args.loss,
        scale_rewards="group",
        num_iterations=1,
        mask_truncated_completions=False,
        bf16=args.precision == "bf16",
        gradient_checkpointing=args.gradient_checkpointing,
        generation_kwargs={"stop_token_ids": ends}
        if args.vllm
        else None,  # transformers reads the model's own
        use_vllm=args.vllm,
        vllm_mode="colocate",
        # its CPU build has none, and what samples while weights are trained cannot sleep
        vllm_enable_sleep_mode=args.vllm and torch.cuda.is_available() and not args.rollouts_ahead,
        vllm_gpu_memory_utilization=0.5,
        vllm_max_model_length=args.max_prompt + args.max_new_tokens,
        vllm_importance_sampling_correction=False,
        model_init_kwargs=None,
        save_strategy="steps",
        save_steps=args.save_every * updates,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def curve_rows(history: list[dict], updates: int) -> list[dict]:
    """One row a step from TRL's log: what its responses were (reward, length, truncated share), which TRL
    logs with the first update, and means over its updates (KL, entropy, gradient, loss, rate).
    """
    names = {"reward": "reward", "length": "completions/mean_length", "truncated": "completions/clipped_ratio", "kl": "kl",
             "entropy": "entropy", "grad_norm": "grad_norm", "loss": "loss", "learning_rate": "learning_rate"}  # fmt: skip
    steps: dict[int, list[dict]] = {}
    for entry in history:
        if "loss" in entry or "reward" in entry:
            steps.setdefault(-(-entry["step"] // updates), []).append(entry)
    rows = []
    for step, entries in sorted(steps.items()):
        values = {name: [float(e[key]) for e in entries if key in e] for name, key in names.items()}
        rows.append({"step": step} | {name: sum(v) / len(v) if v else None for name, v in values.items()})
    return rows


def train(args, work: list):
    """Train as `args` say, work that `work` names; writes the model, its record and its learning curve."""
    rows, answers = golds.task(args.problems), dict(args.answers).get(args.problems.stem, ())
    if why := golds.unlisted(rows, answers):
        records.fail(args.problems, why, f"Mend its source, or rl.sets.{args.problems.stem}.answers")

    import os

    import torch
    from datasets import Dataset

    from valley import ahead, checkpoints, decoding, engines, grid, manifests, rollouts, training

    start = time.perf_counter()
    manifests.check_model(args.model)
    tokenizer = prompts.load_tokenizer(args.model)
    if unsound := prompts.tokenizer_problems(tokenizer, None, 0):
        records.fail(args.model, "; ".join(unsound), "Mend the family's entry in the config")
    special = prompts.special_tokens(tokenizer)
    if found := next((row["problem"] for row in rows if special.search(row["problem"])), None):
        records.fail(
            args.problems,
            f"a problem spells the special token {special.search(found)[0]}, which TRL would read as one",
            "Leave the problem out",
        )
    data = [
        {
            "prompt": prompts.messages(r["problem"], args.system, args.suffix),
            "answer": r["answer"],
            "problem": r["problem"],
        }
        | {name: r[name] for name in golds.COLUMNS if name in r}
        for r in rows
    ]
    devices = int(os.environ.get("WORLD_SIZE", 1))
    batching = trl_batching(args.prompts, args.rollouts, args.minibatch, devices, args.device_batch)
    updates = batching.pop("updates")

    folder = args.out.parent / "checkpoints"
    ends = engines.end_ids(args, tokenizer)
    config = make_config(args, batching, updates, folder, ends)
    training.announce(config)
    model = training.start_model(args)
    model.generation_config.eos_token_id = ends
    if not (args.vllm or args.deepspeed or torch.cuda.is_available()):
        model.generate = functools.partial(model.generate, custom_generate=decoding.decode)
    data_hash = records.sha256(args.problems)
    same = [data_hash, records.identity(args.model), settings(args)]
    resume = checkpoints.resume_point(folder, same, checkpoints.shape(args.deepspeed))
    training.check_room(args, folder, kept=None, steps=args.steps)
    if args.vllm:
        rollouts.prepare_vllm(args.precision, args.seed, environment.process_rank(), devices)
    kind = rollouts.trainer_class(args.device_tokens)
    with equality.Comparer() as comparer:
        trainer = (ahead.one_step_off(kind) if args.rollouts_ahead else kind)(
            model=model,
            args=config,
            reward_funcs=make_reward(ends, comparer, args.answer, args.think, tokenizer, answers),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(data),
        )
        took = training.train_and_save(trainer, tokenizer, args, resume, start, kept=None, unit=updates)
    curve, facts = curve_rows(trainer.state.log_history, updates), rollouts.facts_of(trainer)
    if trainer.is_world_process_zero():
        record = records.provenance(args) | took
        record |= {
            "work": grid.fingerprint(work),
            "steps": args.steps,
            "updates_per_step": updates,
            "responses_per_step": args.prompts * args.rollouts,
            "responses": args.steps * args.prompts * args.rollouts,
            "problems": len(data),
            "resumed_from": resume,
            "reward": [row["reward"] for row in curve],
            "attention": model.config._attn_implementation,
            "devices": devices,
            **batching,
            **facts,
            **{name: asked for name in ("device_tokens", "rollouts_ahead") if (asked := getattr(args, name))},
            "tokens_generated": round(sum(row["length"] for row in curve) * args.prompts * args.rollouts),
            "data_sha256": data_hash,
            "parameters": training.parameters(model),
            "warnings": training.warnings(trainer.state.log_history, updates),
            "weights": manifests.weights_hashes(args.out),
        }
        records.write_parquet(args.curve, curve, provenance=record)
        records.write_json(args.record, record)
        checkpoints.drop_states(checkpoints.of(folder))
        records.done(
            f"RL: {args.steps} steps, reward {curve[0]['reward']:.2f} → {curve[-1]['reward']:.2f}",
            args.out,
            record["seconds"],
        )


def main():
    args = parse()
    environment.check_torch()  # no failure of the work: another node may cure it
    from valley import training

    work = [settings(args), records.identity(args.model), records.identity(args.problems)]
    with training.session(args, work) as todo:
        if todo:
            train(args, work)


if __name__ == "__main__":
    main()
