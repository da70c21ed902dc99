"""What is looked at: everything that touches weights or changes a forward pass."""
