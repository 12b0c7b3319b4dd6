"""What is computed? The recurrence, the model, the training step, a whole run: pure functions."""
