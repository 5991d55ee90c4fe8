"""Examples of similar length side by side on the cards that train together.

Cards wait for each other after every micro-step (ZeRO reduces gradients there), so it lasts as long as its
longest example. Within one global batch the order of examples changes no gradient: the loss is divided by the
tokens of the batch.
"""

import numpy


def side_by_side(order, lengths, batch: int) -> list[int]:
    """The indices of `order` with each `batch` of them in a row sorted by length, longest first; those of a
    last, smaller batch too.
    """
    order, lengths = numpy.asarray(order), numpy.asarray(lengths)
    parts = [order[at : at + batch] for at in range(0, len(order), batch)]
    return [int(i) for part in parts for i in part[numpy.argsort(-lengths[part], kind="stable")]]


def waited(order, lengths, devices: int, device_batch: int = 1) -> float:
    """Tokens that all devices could have computed over those they had: every micro-step lasts as the most
    loaded device of it. `order` is dealt as accelerate does, `device_batch` in a row to each.
    """
    each = numpy.asarray(lengths)[numpy.asarray(order)]
    each = each[: len(each) // (devices * device_batch) * devices * device_batch]
    loads = each.reshape(-1, devices, device_batch).sum(-1)
    return float(loads.max(1).sum() * devices / loads.sum())


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
