"""All parameters: name, default, kind, unit, meaning. Defaults are defined nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pypty.params.parameter import Parameter
from pypty.params.schema.batches import BATCHES
from pypty.params.schema.changes import BEAM, CONSTRAINTS, RECORD
from pypty.params.schema.data import DATA
from pypty.params.schema.experiment import EXPERIMENT
from pypty.params.schema.losses import LOSSES, MODEL
from pypty.params.schema.numerics import NUMERICS
from pypty.params.schema.optimiser import OPTIMISER
from pypty.params.schema.output import OUTPUT
from pypty.params.schema.projections import PROJECTED
from pypty.params.schema.results import RESULTS
from pypty.params.schema.start import STATE

# fmt: off
GROUPS: Mapping[str, tuple[Parameter, ...]] = MappingProxyType({
    "Data": DATA, "Output": OUTPUT, "Experiment": EXPERIMENT, "Starting state": STATE, "Numerics": NUMERICS,
    "Model options": MODEL, "Optimiser": OPTIMISER, "Batches, first-order optimisers, monitor": BATCHES,
    "Combined losses": LOSSES, "Constraints": CONSTRAINTS, "Constraints between epochs": PROJECTED, "Beam": BEAM,
    "Result files": RESULTS, "Recorded only": RECORD,
})

SCHEMA: Mapping[str, Parameter] = MappingProxyType({
    parameter.name: parameter for group in GROUPS.values() for parameter in group
})
