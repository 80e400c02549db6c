"""The sizes of what the small reasoner sees: a square of patches, one token each."""

PATCH = 16
SIDE = 224
GRID = SIDE // PATCH
TOKENS = GRID * GRID
