"""Calibration from the patterns alone. Each function looks at a scan and returns a :class:`Suggestion`.

suggestion = pypty.calibrate.everything(params)
print(suggestion)
params = suggestion.apply(params)
"""

from pypty.calibrate.defects import defects
from pypty.calibrate.defocus import defocus
from pypty.calibrate.descan import descan
from pypty.calibrate.disk import disk
from pypty.calibrate.everything import everything
from pypty.calibrate.orientation import THICK, Candidate, orientation
from pypty.calibrate.scan_order import scan_order
from pypty.calibrate.specimen import specimen
from pypty.calibrate.suggestion import Suggestion

__all__ = [
    "THICK",
    "Candidate",
    "Suggestion",
    "defects",
    "defocus",
    "descan",
    "disk",
    "everything",
    "orientation",
    "scan_order",
    "specimen",
]
