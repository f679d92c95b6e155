"""Checks of the counts themselves: whole numbers, noise model, bad pixels, saturation, empty frames."""

from __future__ import annotations

from pypty.preflight.facts import Facts
from pypty.preflight.item import PASS, WARN, Item, worse_above, worse_below

_DENSE = 1.0
_LEAST_SQUARES = ("lsq_sqrt", "lsq", "lsq_sqrt_2")


def data_items(facts: Facts) -> tuple[list[Item], list[str]]:
    """Checks of a sample of the patterns."""
    sample, settings = facts.sample, facts.setup.settings
    seen = f"in {sample.n} of {sample.n_all} patterns"
    items = [
        Item(
            "whole counts",
            PASS if sample.whole or settings["algorithm"] == "poisson_gaussian" else WARN,
            "yes" if sample.whole else "no",
            "",
            "warn when values are not whole numbers",
            f"Electrons are counted in whole numbers ({seen}); other values are scaled, or of an integrating detector.",
            "Divide by the detector's gain (data_multiplier), or use algorithm='poisson_gaussian' with detector_gain "
            "and readout_noise. Noise-free simulations may stay as they are.",
        ),
        Item(
            "empty frames",
            worse_above(sample.empty, 0, 0.5 * sample.n),
            sample.empty,
            "patterns",
            "warn above 0, fail above half of them",
            f"Patterns with less than a tenth of the median counts, {seen}.",
            "Leave them out with sequence.",
        ),
        Item(
            "saturation",
            worse_above(sample.saturated, 0),
            100 * sample.saturated,
            "%",
            "warn above 0",
            f"Values that are the largest one, {sample.largest:g}, where it is the limit of the type or far too "
            f"frequent ({seen}).",
            "Give saturated pixels weight 0 with detector_mask, or measure with less current.",
        ),
    ]
    if settings["masks"] is not None:
        return items, ["hot and dead pixels: virtual detectors have none"]
    items += [_bad_pixel_item(facts, seen)]
    if facts.disk is not None:
        items.append(_noise_model_item(facts))
    return items, []


def _bad_pixel_item(facts: Facts, seen: str) -> Item:
    hot, dead = int(facts.sample.hot.sum()), int(facts.sample.dead.sum())
    return Item(
        "hot and dead pixels",
        worse_above(hot + dead, 0),
        hot + dead,
        "px",
        "warn above 0",
        f"{hot} above three times every neighbour, {dead} without any count beside bright ones ({seen}).",
        "Give them weight 0 with detector_mask; pypty.calibrate makes one.",
    )


def _noise_model_item(facts: Facts) -> Item:
    assert facts.disk is not None
    settings = facts.setup.settings
    counts = float(facts.sample.mean[facts.disk.inside].mean()) if facts.disk.inside.any() else 0.0
    terms = settings["loss_terms"]
    sparse = terms is None and settings["algorithm"] in _LEAST_SQUARES and facts.sample.mean.sum() > 2
    used = f"algorithm={settings['algorithm']!r}" if terms is None else f"loss_terms: {', '.join(terms)}"
    return Item(
        "noise model",
        worse_below(counts, _DENSE) if sparse else PASS,
        counts,
        "e/px",
        f"warn below {_DENSE:g} with algorithm {', '.join(_LEAST_SQUARES)}",
        f"Mean counts of a pixel in the disk; {used}.",
        "Few counts have no Gaussian noise: use algorithm='ml'.",
    )
