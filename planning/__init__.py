"""What is generated when, and what each step may see: plain ints and frozen dataclasses."""
