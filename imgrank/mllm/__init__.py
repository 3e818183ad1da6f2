"""Multimodal language models: photos become visual tokens, and pairs of photos become the logits of its answers."""
