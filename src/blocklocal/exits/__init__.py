"""Answers that cost less where they are easy: blocks calibrated on validation data, and when a sample may leave."""

from blocklocal.exits.choice import Setting
from blocklocal.exits.fitted import Calibration, Choice, FittedExits, fit_exits, load_exits
from blocklocal.exits.programs import export_programs

__all__ = ["Calibration", "Choice", "FittedExits", "Setting", "export_programs", "fit_exits", "load_exits"]
