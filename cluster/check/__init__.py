"""What would stop a cluster before it costs money: checks of a cluster file, of a node, and of a running cluster."""
