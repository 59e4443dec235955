"""What holds a trained run back: alignment, messages, probes and reconstructions of every block, and what to try."""

from blocklocal.diagnose.diagnosis import BlockDiagnosis, Diagnosis
from blocklocal.diagnose.run import diagnose_run, write_diagnosis
from blocklocal.diagnose.text import TextBlock, TextDiagnosis

__all__ = ["BlockDiagnosis", "Diagnosis", "TextBlock", "TextDiagnosis", "diagnose_run", "write_diagnosis"]
