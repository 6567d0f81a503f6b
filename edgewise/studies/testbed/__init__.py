"""A real network on one machine: devices as network namespaces with links of a given rate.
Their processors are this machine's, slowed down. Needs Linux and root.

A share of a processor by control group (a quota of each millisecond or so) made nothing that can be
predicted: what is not used in a pause is there after it, so a step took 23 ms after a pause and 40
without (dev/LOG.md, 2026-11-29)."""
