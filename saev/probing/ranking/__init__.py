"""Average precision, AUROC, F1 and precision@k of all pairs, exact under ties."""
