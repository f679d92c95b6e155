"""Writes first_order.npz: trajectories of PyTorch's optimisers and factors of its schedulers, in float64.

Run once with PyTorch 2.13 (CPU); the tests only read the file:  python tests/golden/make_first_order.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

STEPS = 8
SHAPES = {"matrix": (4, 3), "probe": (2, 3, 2), "vector": (5,)}
RATES = {"matrix": 0.03, "probe": 0.02, "vector": 0.5}
CLASSES = {
    "adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "momentum": "SGD", "rmsprop": "RMSprop", "radam": "RAdam",
    "nadam": "NAdam", "adagrad": "Adagrad", "adadelta": "Adadelta", "adamax": "Adamax", "adafactor": "Adafactor",
    "asgd": "ASGD", "rprop": "Rprop",
}  # fmt: skip
CASES = [
    *((name, {}) for name in CLASSES),
    ("adam", {"betas": [0.5, 0.8], "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True}),
    ("adamw", {"weight_decay": 0.2, "amsgrad": True, "betas": [0.7, 0.6]}),
    ("sgd", {"momentum": 0.7, "dampening": 0.3, "weight_decay": 0.1}),
    ("sgd", {"momentum": 0.6, "nesterov": True}),
    ("adamw", {"eps": 1e-2}),
    ("radam", {"betas": [0.5, 0.95]}),
    ("momentum", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.05}),
    ("rmsprop", {"alpha": 0.8, "momentum": 0.6, "centered": True, "weight_decay": 0.1, "eps": 1e-4}),
    ("rmsprop", {"centered": True, "alpha": 0.7}),
    ("radam", {"betas": [0.8, 0.9], "weight_decay": 0.1, "eps": 1e-3}),
    ("radam", {"betas": [0.8, 0.3]}),
    ("nadam", {"betas": [0.7, 0.9], "momentum_decay": 0.1, "weight_decay": 0.1, "eps": 1e-3}),
    ("adagrad", {"lr_decay": 0.2, "initial_accumulator_value": 0.3, "weight_decay": 0.1, "eps": 1e-3}),
    ("adadelta", {"rho": 0.6, "eps": 1e-3, "weight_decay": 0.1}),
    ("adamax", {"betas": [0.7, 0.6], "eps": 1e-2, "weight_decay": 0.1}),
    ("adafactor", {"beta2_decay": -0.5, "eps": 0.1, "d": 1.3, "weight_decay": 0.1}),
    ("adafactor", {"eps": [0.5, 0.01]}),
    ("asgd", {"lambd": 0.1, "alpha": 0.5, "t0": 2.0, "weight_decay": 0.1}),
    ("momentum", {"momentum": 0.4, "dampening": 0.5}),
    ("rprop", {"etas": [0.3, 1.5], "step_sizes": [0.01, 0.05]}),
]
SCHEDULES = [
    ("step", {"step_size": 4, "gamma": 0.5}),
    ("multistep", {"milestones": [3, 7, 7, 15], "gamma": 0.3}),
    ("constant", {"factor": 0.25, "total_iters": 6}),
    ("linear", {"start_factor": 0.2, "end_factor": 0.7, "total_iters": 9}),
    ("exponential", {"gamma": 0.9}),
    ("polynomial", {"total_iters": 12, "power": 1.7}),
    ("cosine", {"T_max": 9, "eta_min": 0.1}),
    ("cosine_restarts", {"T_0": 5, "T_mult": 2, "eta_min": 0.05}),
    ("cosine_restarts", {"T_0": 4}),
    ("one_cycle", {"total_steps": 24, "max_factor": 2.0}),
    ("one_cycle", {"total_steps": 20, "max_factor": 1.0, "three_phase": True, "anneal_strategy": "linear",
                   "pct_start": 0.25, "div_factor": 10.0, "final_div_factor": 50.0, "base_momentum": 0.5,
                   "max_momentum": 0.7}),
    ("cyclic", {"step_size_up": 4, "step_size_down": 6, "base_factor": 0.2, "max_factor": 1.5}),
    ("cyclic", {"step_size_up": 3, "mode": "triangular2", "base_momentum": 0.4, "max_momentum": 0.6}),
    ("cyclic", {"step_size_up": 5, "mode": "exp_range", "gamma": 0.95, "cycle_momentum": False}),
    ("plateau", {"factor": 0.5, "patience": 2, "cooldown": 1, "threshold": 0.01, "min_factor": 0.1}),
    ("plateau", {"factor": 0.5, "patience": 1, "threshold": 0.02, "threshold_mode": "abs"}),
]  # fmt: skip
SCHEDULE_STEPS = 24


def trajectory(name: str, options: dict, start: dict, gradients: dict) -> dict[str, np.ndarray]:
    options = {**({"momentum": 0.9} if name == "momentum" else {}), **options}
    if name == "adafactor" and "eps" in options and not isinstance(options["eps"], list):
        options["eps"] = (None, options["eps"])
    found = {}
    for block, value in start.items():
        parameter = torch.tensor(real(value), requires_grad=True)
        optimizer = getattr(torch.optim, CLASSES[name])([parameter], lr=RATES[block], **options)
        path = []
        for step in range(STEPS):
            parameter.grad = torch.tensor(real(gradients[block][step]))
            optimizer.step()
            path.append(parameter.detach().numpy().copy())
        found[block] = np.stack(path)
        if name == "asgd":
            found[f"{block}_average"] = optimizer.state[parameter]["ax"].numpy()
    return found


def real(array: np.ndarray) -> np.ndarray:
    """As PtyRAD optimises it: complex numbers as pairs."""
    return np.stack([array.real, array.imag], axis=-1) if np.iscomplexobj(array) else array


def schedule(name: str, options: dict, losses: np.ndarray) -> tuple[list[float], list[float]]:
    """Factors and momenta before each step, for a learning rate of 1."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    made = scheduler(name, dict(options), optimizer)
    factors, momenta = [], []
    for step in range(SCHEDULE_STEPS):
        factors.append(float(optimizer.param_groups[0]["lr"]))
        momenta.append(float(optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if name == "plateau":
            made.step(losses[step])
        elif step + 1 < options.get("total_steps", 10**9):
            made.step()
    return factors, momenta


def scheduler(name: str, options: dict, optimizer: torch.optim.Optimizer) -> object:
    of = torch.optim.lr_scheduler
    if name == "one_cycle":
        return of.OneCycleLR(optimizer, max_lr=options.pop("max_factor"), **options)
    if name == "cyclic":
        base, largest = options.pop("base_factor", 0.1), options.pop("max_factor", 1.0)
        return of.CyclicLR(optimizer, base, largest, **options)
    if name == "plateau":
        return of.ReduceLROnPlateau(optimizer, min_lr=options.pop("min_factor", 0.0), **options)
    classes = {"step": of.StepLR, "multistep": of.MultiStepLR, "constant": of.ConstantLR, "linear": of.LinearLR,
               "exponential": of.ExponentialLR, "polynomial": of.PolynomialLR, "cosine": of.CosineAnnealingLR,
               "cosine_restarts": of.CosineAnnealingWarmRestarts}  # fmt: skip
    return classes[name](optimizer, **options)


def main() -> None:
    torch.set_default_dtype(torch.float64)  # also of its counters
    rng = np.random.default_rng(7)

    def numbers(shape: tuple[int, ...], kind: str) -> np.ndarray:
        values = rng.normal(size=shape)
        return values + 1j * rng.normal(size=shape) if kind == "probe" else values

    start = {block: numbers(shape, block) for block, shape in SHAPES.items()}
    gradients = {block: numbers((STEPS, *shape), block) for block, shape in SHAPES.items()}
    losses = np.concatenate([[1.0, 0.9, 0.8, 0.799, 0.798], 0.797 - 1e-3 * np.arange(7), np.linspace(0.7, 0.5, 3),
                             np.full(9, 0.5)])  # fmt: skip
    out = {"cases": json.dumps(CASES), "schedules": json.dumps(SCHEDULES), "rates": json.dumps(RATES),
           "in_losses": losses}  # fmt: skip
    out |= {f"in_{block}": value for block, value in start.items()}
    out |= {f"in_gradient_{block}": value for block, value in gradients.items()}
    for index, (name, options) in enumerate(CASES):
        paths = trajectory(name, options, start, gradients)
        out |= {f"out{index}_{block}": path for block, path in paths.items()}
    for index, (name, options) in enumerate(SCHEDULES):
        factors, momenta = schedule(name, options, losses)
        out |= {f"schedule{index}_factor": np.array(factors), f"schedule{index}_momentum": np.array(momenta)}
    np.savez_compressed(Path(__file__).with_name("first_order.npz"), **out)


if __name__ == "__main__":
    main()
