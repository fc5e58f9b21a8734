"""What is recorded in MLflow, and the server of a cluster."""
