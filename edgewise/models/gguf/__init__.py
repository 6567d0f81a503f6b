"""GGUF files, llama.cpp's format: weights in blocks of few bits, configuration and tokenizer in one
file. Its codes become ours bit for bit; only their scales and minima are rounded, to fp16 (MXFP4's
fit bf16)."""
