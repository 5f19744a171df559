"""Kubernetes as a place to train and to serve."""
