"""Checks of the counts: whole numbers, noise model, empty frames."""

from __future__ import annotations

from pypty.engine.setup.noise import BIAS, bias_advice, phase_bias
from pypty.preflight.facts import Facts
from pypty.preflight.item import PASS, WARN, Item, number, worse_above

_DENSE = 1.0


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
    return [*items, _noise_model_item(facts)], []


def _noise_model_item(facts: Facts) -> Item:
    settings, disk = facts.setup.settings, facts.disk
    terms, bias = settings["loss_terms"], phase_bias(facts.setup)
    virtual = settings["masks"] is not None
    in_disk = disk is not None and disk.inside.any() and not virtual
    counts = float(facts.sample.mean[disk.inside].mean()) if disk is not None and in_disk else None
    sparse = terms is None and settings["algorithm"] == "lsq" and facts.sample.mean.sum() > 2
    status = worse_above(bias, BIAS)
    if sparse and counts is not None and counts < _DENSE:
        status = WARN
    why = [] if terms is not None else [f"{choice}." for choice in settings.choices]
    if counts is not None:
        why.append(f"Mean counts of a pixel in the disk: {number(counts)}.")
    if bias >= BIAS:
        why.append(f"Phases are expected to be about {100 * bias:.2g} % too small at this dose.")
    return Item(
        name="noise model",
        status=status,
        value=settings["algorithm"] if terms is None else f"loss_terms: {', '.join(terms)}",
        unit="",
        limit=f"warn when phases become {100 * BIAS:g} % too small, or with lsq below {_DENSE:g} e/px in the disk",
        meaning=" ".join(why) or "The loss, as given.",
        what_to_do=f"The noise of few counts is not Gaussian: {bias_advice(facts.setup)}.",
    )
