"""Learning where the data is, done: a client's model and data, and clients in one process. Over a
network it is `flower`, which alone needs the package of that name."""
