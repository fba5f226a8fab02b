"""Attention: on-chip and paged key/value storage, online softmax, LM head."""
