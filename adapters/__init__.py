"""The only code that knows ComfyUI's models: one file per model family."""
