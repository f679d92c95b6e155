"""Search for the best parameters (defocus, tilt, rates, weights, ...): many short reconstructions with Optuna."""

from pypty.tune.results import Study, TrialRecord
from pypty.tune.study import tune

__all__ = ["Study", "TrialRecord", "tune"]
