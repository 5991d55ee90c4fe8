"""Which problems each generation of an RL takes.

TRL's sampler draws the order of each epoch from one generator as it goes, so that a run which continues
begins again with the order of the first epoch. Here an epoch has its own order, the one that an undisturbed
run gives it, and the problems of a generation are known before it comes.
"""

import torch


def wind(draws, problems: int, seed: int, epoch: int):
    """A generator, wound to where TRL's RepeatSampler draws the order of an epoch, counted from 0."""
    draws.manual_seed(seed)
    for _ in range(epoch):
        torch.randperm(problems, generator=draws)
    return draws


def order_of(problems: int, seed: int, epoch: int) -> list[int]:
    """Indices of the problems in the order of an epoch."""
    return torch.randperm(problems, generator=wind(torch.Generator(), problems, seed, epoch)).tolist()


def problems_of(generation: int, problems: int, each: int, seed: int) -> list[int]:
    """Indices of the `each` problems of a generation, counted from 0. What is left over of an epoch is not
    trained on in it, as TRL has it.
    """
    epoch, at = divmod(generation, problems // each)
    return order_of(problems, seed, epoch)[at * each : (at + 1) * each]


class OfGenerations(torch.utils.data.Sampler):
    """TRL's RepeatSampler, `plain`, from the generation on that `epoch`, a function, tells it is at."""

    def __init__(self, plain, epoch):
        self.plain, self.epoch = plain, epoch

    def __len__(self):
        return len(self.plain)

    def __iter__(self):
        """Indices of an epoch, each problem as often as it has responses, all as often as they are asked
        for.
        """
        wind(self.plain.generator, self.plain.num_samples, self.plain.seed, self.epoch())
        return iter(self.plain)
