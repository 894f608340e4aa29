"""`embedway plan`: from what one machine does to how many are needed, and what they cost."""
