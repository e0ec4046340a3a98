"""Throughline: long video for ComfyUI. The host finds the nodes and the page here."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
