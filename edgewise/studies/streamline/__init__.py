"""LLM-Streamline's study: what a model of a quarter fewer parameters still knows."""
