"""What is remembered: pure torch, free of ComfyUI."""
