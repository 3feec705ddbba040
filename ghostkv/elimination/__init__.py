"""The mathematics: exact attention, thresholds, sweeps, metrics, bounds, certificates, intervals."""
