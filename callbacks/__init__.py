"""Lightning callbacks: hook -> saev.metrics -> metrics of the bank; no formulas here.

A callback adds `name -> a value per member` to `BankModule.latest` (training) or `BankModule.validated` (held-out data);
`MetricsWriter`, the last callback but `Page`, writes them, and the counts by bin in the callbacks' `distributions` (`name -> a list per
member`).
"""

from callbacks.checkpoint import Checkpoint
from callbacks.latents import Coherence, DeadUnits, FrequencyHistogram
from callbacks.member_cost import MemberCost
from callbacks.member_export import MemberExport
from callbacks.metrics_writer import MetricsWriter
from callbacks.mixing import Mixing
from callbacks.page import Page
from callbacks.probe import Probe
from callbacks.progress import BankProgress
from callbacks.sparsity_warmup import SparsityWarmup
from callbacks.throughput import Throughput

__all__ = [
    "BankProgress",
    "Checkpoint",
    "Coherence",
    "DeadUnits",
    "FrequencyHistogram",
    "MemberCost",
    "MemberExport",
    "MetricsWriter",
    "Mixing",
    "Page",
    "Probe",
    "SparsityWarmup",
    "Throughput",
]
