"""Models of other tools, and ours for them."""
