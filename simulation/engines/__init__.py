"""Where a campaign runs: in this process, on Ray, or (in a test) on real Flower processes."""
