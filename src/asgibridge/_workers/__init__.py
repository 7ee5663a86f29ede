"""Workers under a policy: leases, the pool and its limit, hooks, and the figures."""
