"""A model under elimination: policies, attention seat, cache, deciders, traffic, measurement."""
