"""SFT on CPU by one process, each step taken plainly.

TRL's loss goes through the vocabulary in chunks, which spares the memory of a card, and measures entropy and
accuracy at every step; around it the library looks for optional packages and walks over all modules and
weights. Where a step takes milliseconds that costs as much as the work.
"""

import sys


def completion_loss(model, inputs: dict, count=None):
    """Mean cross-entropy of the completion's tokens, by one plain pass through the head.

    `inputs`: input_ids, attention_mask and labels, (rows, longest); -100 is ignored. `count`: the tokens that
    the sum is divided by, where a batch is one of several that are accumulated.
    """
    import torch

    labels = inputs["labels"][:, 1:]
    told = labels != -100
    first = int(told.any(0).int().argmax())  # the head need not run on what all rows only read
    kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    keep = inputs["labels"].shape[1] - first
    logits = model(**kept, use_cache=False, logits_to_keep=keep).logits[:, :-1]
    told, labels = told[:, first:], labels[:, first:]
    total = torch.nn.functional.cross_entropy(logits[told], labels[told], reduction="sum")
    return total / (told.sum() if count is None else count)


def plain_trainer_class():
    """TRL's SFTTrainer with plain steps; the weights come out the same as by its own."""
    from torch.nn.utils import clip_grad_norm_
    from trl import SFTTrainer

    class Plain(SFTTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            if not model.training:
                model.train()
            self._total_train_tokens += int(inputs["attention_mask"].sum())
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            loss = completion_loss(model, inputs, num_items_in_batch)
            loss.backward()
            return loss.detach()

        def _clip_grad_norm(self, model):
            return clip_grad_norm_(model.parameters(), self.args.max_grad_norm)

        def floating_point_ops(self, inputs):
            return 0  # nobody reads them

    sys.modules.setdefault("lomo_optim", None)  # or it is looked for on the disk twice a step
    return Plain
