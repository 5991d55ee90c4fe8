"""Examples of similar length side by side on the cards that train together.

Cards wait for each other after every micro-step (ZeRO reduces gradients there), so it lasts as long as its
longest example. Within one global batch the order of examples changes no gradient: the loss is divided by the
tokens of the batch.
"""

import itertools

import numpy


def side_by_side(order, lengths, batch: int) -> list[int]:
    """The indices of `order` with each `batch` of them in a row sorted by length, longest first; those of a
    last, smaller batch too.
    """
    order, lengths = numpy.asarray(order), numpy.asarray(lengths)
    parts = [order[at : at + batch] for at in range(0, len(order), batch)]
    return [int(i) for part in parts for i in part[numpy.argsort(-lengths[part], kind="stable")]]


def loads_of(order, lengths, device_batch: int, padded: bool):
    """What each micro-batch of a device computes, `device_batch` of `order` in a row: its tokens, or `padded`
    as many for each example as the longest has.
    """
    each = numpy.asarray(lengths)[numpy.asarray(order)]
    parts = [each[at : at + device_batch] for at in range(0, len(each), device_batch)]
    return numpy.array([len(part) * part.max() if padded else part.sum() for part in parts])


def waited(order, lengths, devices: int, device_batch: int = 1) -> float:
    """Tokens that all devices could have computed over those they had: every micro-step lasts as the most
    loaded device of it. `order` is dealt as accelerate does, `device_batch` in a row to each.
    """
    order = order[: len(order) // (devices * device_batch) * devices * device_batch]
    loads = loads_of(order, lengths, device_batch, padded=False).reshape(-1, devices)
    return float(loads.max(1).sum() * devices / loads.sum())


def columns_of_run(trainer, lengths) -> dict[str, int]:
    """For the record of a whole run on data of such lengths, by the order in which its loader dealt them:
    columns that its devices computed, tokens in them, and columns that they could have computed until the
    most loaded one was done with each micro-step.
    """
    args, loader = trainer.args, trainer.callback_handler.train_dataloader
    dealt = getattr(loader.batch_sampler, "batch_sampler", loader.batch_sampler)  # that of all devices
    size, at_once = args.per_device_train_batch_size, args.per_device_train_batch_size * args.world_size
    left, found = trainer.state.global_step, numpy.zeros(3, int)
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        order = numpy.fromiter(itertools.chain.from_iterable(dealt), int)
        if args.world_size > 1:  # the last micro-step is filled up from the start
            order = numpy.resize(order, -(-len(order) // at_once) * at_once)
        steps = min(left, -(-len(order) // (at_once * args.gradient_accumulation_steps)))
        order = order[: steps * at_once * args.gradient_accumulation_steps]
        loads = loads_of(order, lengths, size, padded=not args.packing).reshape(-1, args.world_size)
        most = loads.max(1).sum() * args.world_size
        found += [loads.sum(), numpy.asarray(lengths)[order].sum(), most]
        left -= steps
        if not left:
            break
    names = ("columns_computed", "columns_of_tokens", "columns_waited")
    return dict(zip(names, found.tolist(), strict=True))


class SideBySide:
    """A sampler that gives another's indices by `side_by_side`, anew in every epoch."""

    def __init__(self, sampler, lengths, batch: int):
        self.sampler, self.lengths, self.batch = sampler, lengths, batch

    def __len__(self):
        return len(self.sampler)

    def __iter__(self):
        return iter(side_by_side(list(self.sampler), self.lengths, self.batch))

    def set_epoch(self, epoch: int):
        """Passed on: the order of an epoch is the other's."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


def rearrange(loader, lengths, batch: int):
    """Have a data loader that accelerate has dealt to several processes take its examples by `SideBySide`."""
    dealt = loader.batch_sampler.batch_sampler
    dealt.sampler = SideBySide(dealt.sampler, lengths, batch)
    return loader
