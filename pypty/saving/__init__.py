"""What is written while a run goes on, every ``save_iters`` epochs."""

from __future__ import annotations

from pypty.saving.saver import Saver, result_folder

__all__ = ["Saver", "result_folder"]
