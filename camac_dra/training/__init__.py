"""Training: RLlib's PPO on arrays, runs with checkpoints and exact resume, evaluation."""
