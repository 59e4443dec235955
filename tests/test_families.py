"""One battery over every registered family. Oracles: autograd of A, the Bregman form, mpmath, Monte Carlo, the domain."""

import itertools
import math

import mpmath
import pytest
import torch
from family_cases import CASES, Case, mp_divergence, mp_evidence, mp_scale
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklocal.errors import InputError
from blocklocal.families import FAMILIES, Family, family

torch.set_num_threads(1)
