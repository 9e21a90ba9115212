"""Train a model: the loop, the optimizers, the run that is trained."""
