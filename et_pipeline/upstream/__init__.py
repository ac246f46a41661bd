"""Overrides of torch, torchao, ExecuTorch and transformers: what each changes, why, and until when.

Every one is scoped, and each file stands alone. For most a test in tests/upstream fails as soon as upstream needs it no
more; collector, packing, refusals and packed_cache have none yet.
"""
