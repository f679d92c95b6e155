"""Checks of result files and folder names."""

from __future__ import annotations

from types import MappingProxyType

from pypty.params.report import Report
from pypty.params.settings import Settings

TIME_FORMATS = MappingProxyType({"date": "%Y%m%d", "time": "%H%M%S", "datetime": "%Y%m%d_%H%M%S"})
"""Words of ``prefix_time``."""
FORBIDDEN = '<>:"/\\|?*'
"""Characters that some operating systems do not allow in folder names."""
_NAMING = ("recon_dir_affixes", "prefix_time", "prefix", "postfix")


def is_named(settings: Settings) -> bool:
    """Whether results go into a folder of their own inside ``output_folder``."""
    return any(settings.value(key) for key in _NAMING)


def check_results(settings: Settings, report: Report) -> None:
    """Check that folder names are valid, and that result files have a folder."""
    when = settings["prefix_time"]
    if isinstance(when, str) and when and when not in TIME_FORMATS and not when.startswith("%"):
        report.add(
            "prefix_time",
            f"given {when!r}, expected True, 'date', 'time', 'datetime', or a format that begins with %, like "
            "'%Y-%m-%d'",
        )
    for key, text in (("prefix", settings["prefix"]), ("postfix", settings["postfix"])):
        wrong = sorted(
            {character for character in text if character in FORBIDDEN or ord(character) < ord(" ")}
        )
        if wrong:
            report.add(
                key,
                f"{text!r} contains {' '.join(map(repr, wrong))}, which some systems do not allow in folder names; "
                "leave it out",
            )
    if settings["resume"] == "auto" and when:
        report.add(
            "resume",
            "'auto' beside prefix_time: every start has another time, and so another folder; leave prefix_time out",
        )
    if not settings["output_folder"]:
        idle = [
            key for key in ("save_iters", *_NAMING) if key in settings.set_by_user and settings.value(key)
        ]
        report.warnings += [f"{key} has no effect: output_folder is not given" for key in idle]
    elif not settings["save_iters"]:
        idle = [
            key
            for key in ("save_result", "selected_figs", "result_modes")
            if key in settings.set_by_user and "save_iters" not in settings.set_by_user
        ]
        report.warnings += [f"{key} has no effect: save_iters is 0" for key in idle]
