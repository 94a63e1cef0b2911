"""Training: inputs as arrays, the network on Ray workers, the run and the registered versions in MLflow."""
