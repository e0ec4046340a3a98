"""The sockets of our own values; everything on them is immutable."""

from comfy_api.latest import io

TL_STORYBOARD = io.Custom("TL_STORYBOARD")
TL_MEMORY = io.Custom("TL_MEMORY")
TL_ENCODER = io.Custom("TL_ENCODER")
TL_PLAN = io.Custom("TL_PLAN")
TL_RUN = io.Custom("TL_RUN")
TL_EXECUTOR = io.Custom("TL_EXECUTOR")
TL_FILLS = io.Custom("TL_FILLS")
TL_LORAS = io.Custom("TL_LORAS")
TL_KEYFRAMES = io.Custom("TL_KEYFRAMES")
TL_HIERARCHY = io.Custom("TL_HIERARCHY")
TL_HIERARCHY_HEAD = io.Custom("TL_HIERARCHY_HEAD")
TL_HIERARCHY_PLANNER = io.Custom("TL_HIERARCHY_PLANNER")
TL_ROLLOUT = io.Custom("TL_ROLLOUT")
TL_COARSE_PLAN = io.Custom("TL_COARSE_PLAN")
