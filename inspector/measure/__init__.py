"""What is computed from a loaded model: a module takes model, text and mask to one result."""
