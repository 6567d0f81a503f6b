"""Edge-LLM's study: what windows, bits and a schedule over memory levels bring."""
