"""A real Kubernetes for machines that have none: the components themselves, built from their Go modules."""
