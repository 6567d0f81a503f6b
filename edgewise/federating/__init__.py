"""Learning where the data is: pure functions on named arrays, without torch or a network."""
