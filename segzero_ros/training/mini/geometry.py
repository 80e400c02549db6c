"""Input geometry of the mini reasoner: a square of patches, one token each."""

PATCH = 16
SIDE = 224
GRID = SIDE // PATCH
TOKENS = GRID * GRID
