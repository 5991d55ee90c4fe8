"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) in single precision.

torch.optim.Muon makes its updates orthogonal in bfloat16: slow where the processor has none, and other
numbers where it has. Matrices of one shape are stacked, since at a width of 64 the calls cost more than the
arithmetic.
"""

import torch

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, from the post


def orthogonal(updates: torch.Tensor) -> torch.Tensor:
    """Each matrix of a stack (matrices, rows, columns) with its singular values moved close to 1."""
    tall = updates.shape[1] > updates.shape[2]
    x = updates.mT if tall else updates
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonal part of the momentum (Nesterov); for hidden matrices alone."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        """One update of every matrix, from its gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = {}
            for matrix in group["params"]:
                shapes.setdefault(matrix.shape, []).append(matrix)
            for (rows, columns), matrices in shapes.items():
                updates = []
                for matrix in matrices:
                    kept = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                    kept.lerp_(matrix.grad, 1 - group["momentum"])
                    updates.append(matrix.grad.lerp(kept, group["momentum"]))
                scale = group["lr"] * max(1, rows / columns) ** 0.5
                for matrix, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)
