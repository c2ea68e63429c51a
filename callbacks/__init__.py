"""Lightning hooks -> saev.metrics -> the bank's numbers; no formulas here.

A callback adds `name -> a value per member` to `BankModule.latest` (training) or `BankModule.validated` (held-out data);
`MetricsWriter`, which stands last, writes them. Counts by bin, `name -> a list per member`, stand in a callback's own
`distributions`.
"""

from callbacks.checkpoint import Checkpoint
from callbacks.coherence import Coherence
from callbacks.dead_units import DeadUnits
from callbacks.frequency_histogram import FrequencyHistogram
from callbacks.member_cost import MemberCost
from callbacks.member_export import MemberExport
from callbacks.metrics_writer import MetricsWriter
from callbacks.mixing import Mixing
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
    "Probe",
    "SparsityWarmup",
    "Throughput",
]
