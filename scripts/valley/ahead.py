"""RL whose next responses are sampled while it trains on these: one step off the policy, as
`rl.rollouts_ahead` asks.

A step's responses come from the weights before the last step. vLLM samples them in a thread of its own beside
the training of the step before, so it never sleeps, and what it holds of the card has to fit beside training.
Sampled by transformers, on CPU, they come before the training of the step before, in the same thread: the
same responses for the same weights, and no time won.

The ratio that the loss clips is to the policy that sampled, by the log-probabilities that came with the
responses: PPO's ratio, where TRL would take that of the weights at the start of the step. A run that
continues samples its first step with the weights it has.

Not what the paper does, and not yet run on a GPU (docs/measurements.md).
"""

from concurrent.futures import Future, ThreadPoolExecutor

from valley import rounds


def one_step_off(trainer: type) -> type:
    """A class of valley/rollouts.py's trainer that samples a step ahead."""
    import torch

    class Ahead(trainer):
        gap = "policy_drift"  # that of a step is in it, so that it does not tell whether vLLM has the weights

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.beside, self.in_hand = ThreadPoolExecutor(1, "rollouts", self.on_own_stream), None

        def on_own_stream(self):
            """First thing in the thread that samples: on the default stream it would wait for training."""
            if torch.cuda.is_available():
                torch.cuda.set_device(self.accelerator.device)
                torch.cuda.set_stream(torch.cuda.Stream())

        def _generate_single_turn(self, prompt_ids, *others):
            if self.in_hand is None:
                found = self.sampled(prompt_ids, *others)
            else:
                expected, future = self.in_hand
                found = future.result()  # an error there is raised here
                if expected != prompt_ids:
                    raise RuntimeError(
                        "other problems came than were sampled ahead: valley/rounds.py is wrong"
                    )
            self.in_hand = self.begun(*others)
            return found

        def begun(self, *others):
            """(prompt ids, future of their responses) of the next step; None after the last one."""
            if self.state.global_step + self.updates >= self.state.max_steps:
                return None
            rows = self.rows_of(self.state.global_step // self.updates + 1)
            ids, *_ = self._tokenize_prompts([self.train_dataset[row]["prompt"] for row in rows])
            if not self.use_vllm:
                future: Future = Future()
                future.set_result(self.sampled(ids, *others))
                return ids, future
            if self.state.global_step != self._last_loaded_step:
                self.vllm_generation.sync_weights()
                self._last_loaded_step = self.state.global_step
                if torch.cuda.is_available():
                    torch.cuda.synchronize()  # the weights are there before another stream reads them
            return ids, self.beside.submit(self.by_vllm, ids, self.num_generations)

        def rows_of(self, generation: int) -> list[int]:
            """This process's part of a generation: indices of problems, each for a response."""
            each = self.args.generation_batch_size // self.num_generations
            problems = rounds.problems_of(generation, len(self.train_dataset), each, self.args.seed)
            rows = [row for row in problems for _ in range(self.num_generations)]
            own = len(rows) // self.accelerator.num_processes
            return rows[own * self.accelerator.process_index :][:own]

        def sampled(self, prompt_ids, *others):
            """(response ids, log-probabilities of their tokens) by the weights as they are."""
            ids, logps = super()._generate_single_turn(prompt_ids, *others)
            return ids, logps or self.logps_of(prompt_ids, ids)

        def by_vllm(self, prompt_ids, generations: int):
            """The same in the other thread."""
            _, ids, logps, _ = self.vllm_generation.generate(prompt_ids, None, generations)
            return ids, [[of_token[0] for of_token in of_row] for of_row in logps]

        @torch.no_grad()
        def logps_of(self, prompt_ids, completion_ids) -> list[list[float]]:
            """Log-probabilities of responses, those of each row's tokens, by the weights as they are."""
            before, after = (max(map(len, rows)) for rows in (prompt_ids, completion_ids))
            shape = len(prompt_ids), before + after
            ids = torch.full(shape, self._tokenizer.pad_token_id, device=self.accelerator.device)
            mask = torch.zeros_like(ids)
            for row, (prompt, response) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
                own = slice(before - len(prompt), before + len(response))
                ids[row, own], mask[row, own] = torch.tensor([*prompt, *response], device=ids.device), 1
            size = self.args.per_device_train_batch_size
            logps, *_ = self._get_per_token_logps_and_entropies(self.model, ids, mask, after, size)
            return [own[: len(of)] for own, of in zip(logps.tolist(), completion_ids, strict=True)]

        def _generate_and_score_completions(self, inputs):
            found = super()._generate_and_score_completions(inputs)
            told, own = found["sampling_per_token_logps"], found.get("old_per_token_logps")
            found["old_per_token_logps"] = told if own is None else torch.where(told.isnan(), own, told)
            return found

    return Ahead
