"""What the rules need beside the package: scripts, what is shown, whose locks are whose."""
