"""One definition of each number we report: `functional` holds the formulas, `stateful` accumulates them over batches and
processes; `mixing`, `correlation`, `histograms`, `matching`, `subspaces` and `fidelity` are one idea each.

Nothing is imported here: torchmetrics takes seconds, and who needs a formula needs `saev.metrics.functional` alone.
"""
