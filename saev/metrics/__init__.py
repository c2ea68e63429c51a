"""One definition of each number we report: `functional` holds the formulas, `mixing` those of the stream's shuffle,
`stateful` accumulates them over batches and processes.

Nothing is imported here: torchmetrics takes seconds, and who needs a formula needs `saev.metrics.functional` alone.
"""
