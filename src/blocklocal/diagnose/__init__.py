"""What holds a trained run back: alignment, messages, probes and reconstructions of every block, and what to try."""

from blocklocal.diagnose.diagnosis import BlockDiagnosis, Diagnosis
from blocklocal.diagnose.run import diagnose_run, write_diagnosis

__all__ = ["BlockDiagnosis", "Diagnosis", "diagnose_run", "write_diagnosis"]
