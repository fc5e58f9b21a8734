"""What runs on the nodes of a cluster beside Ray, and their end."""
