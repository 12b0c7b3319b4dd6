"""How is it run? Training, sweeps, evaluation and prediction, from Python."""
