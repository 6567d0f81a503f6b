"""What quality a model loses in few bits: measured, predicted, and promised."""
