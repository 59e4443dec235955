"""Answers that cost less where they are easy: blocks calibrated on validation data, and when a sample may leave."""

from blocklocal.exits.choice import Setting
from blocklocal.exits.evaluation import EarlyEvaluation, evaluate_early
from blocklocal.exits.fitted import Calibration, Choice, FittedExits, check_exits, fit_exits, load_exits
from blocklocal.exits.programs import export_programs

__all__ = [
    "Calibration",
    "Choice",
    "EarlyEvaluation",
    "FittedExits",
    "Setting",
    "check_exits",
    "evaluate_early",
    "export_programs",
    "fit_exits",
    "load_exits",
]
