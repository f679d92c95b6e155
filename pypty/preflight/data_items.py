"""Checks of the counts: whole numbers, noise model, empty frames."""

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
            name="whole counts",
            status=PASS if sample.whole or settings["algorithm"] == "poisson_gaussian" else WARN,
            value="yes" if sample.whole else "no",
            unit="",
            limit="warn when values are not whole numbers",
            meaning=(
                f"Counts of electrons are whole numbers ({seen}); other values are scaled, or come from an "
                "integrating detector."
            ),
            what_to_do=(
                "Divide by the detector's gain (data_multiplier), or use algorithm='poisson_gaussian' "
                "with detector_gain and readout_noise. Noise-free simulations need no change."
            ),
        ),
        Item(
            name="empty frames",
            status=worse_above(sample.empty, 0, 0.5 * sample.n),
            value=sample.empty,
            unit="patterns",
            limit="warn above 0, fail above half of them",
            meaning=f"Patterns with less than a tenth of the median counts, {seen}.",
            what_to_do="Exclude them with sequence.",
        ),
    ]
    if settings["masks"] is not None:
        return items, []
    if facts.disk is not None:
        items.append(_noise_model_item(facts))
    return items, []


def _noise_model_item(facts: Facts) -> Item:
    assert facts.disk is not None
    settings = facts.setup.settings
    counts = float(facts.sample.mean[facts.disk.inside].mean()) if facts.disk.inside.any() else 0.0
    terms = settings["loss_terms"]
    sparse = terms is None and settings["algorithm"] in _LEAST_SQUARES and facts.sample.mean.sum() > 2
    used = f"algorithm={settings['algorithm']!r}" if terms is None else f"loss_terms: {', '.join(terms)}"
    return Item(
        name="noise model",
        status=worse_below(counts, _DENSE) if sparse else PASS,
        value=counts,
        unit="e/px",
        limit=f"warn below {_DENSE:g} with algorithm {', '.join(_LEAST_SQUARES)}",
        meaning=f"Mean counts of a pixel in the disk; {used}.",
        what_to_do="The noise of few counts is not Gaussian: use algorithm='ml'.",
    )
