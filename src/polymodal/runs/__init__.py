"""What is done with a task: train, validate, predict, compare, export."""
