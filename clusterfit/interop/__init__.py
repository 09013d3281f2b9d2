"""Other people's files: weights of VISSL, torchvision, timm and plain PyTorch.

Nothing in a file is ever executed: what would need it is refused, with the name of what it is.
torch is imported where a function needs it, so that importing this package costs nothing.
"""
