"""What is kept? Run directories, checkpoints, ledgers, weights and logs."""
