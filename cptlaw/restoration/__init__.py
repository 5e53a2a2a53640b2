"""Degradation classification pre-training (DCPT) of image restoration networks, and what a step of it buys.

Hu, Jin, Yao and Lu, "Universal Image Restoration Pre-training via Degradation Classification", ICLR 2025 (arXiv
2501.15510). A second modality of the package's own question: two phases of training, one budget. Nothing here is used
by the rooms for language, and only the command knows this room.

Images are float32 arrays (H, W, 3) with values in [0, 1], in batches (B, H, W, 3).
"""
